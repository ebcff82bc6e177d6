"""The ACME server is away when a region gets its first node: operators are told wherever they look, and the node serves
once the server is back."""

import logging
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner
from portway_registry.acme import schedule
from portway_registry.admin_cli.cli import main
from portway_registry.pki.ca_folder import CaFolder
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, Cluster, NodePlan, RunningNode
from portway_testkit.clusters.doctor import Doctor, kinds
from portway_testkit.clusters.mesh import connected
from portway_testkit.clusters.pebble import Pebble
from portway_testkit.fixtures import AsClient
from portway_testkit.processes.ports import free_port
from portway_testkit.visitors.onlookers import answered, named
from portway_testkit.waiting import PATIENCE, eventually

OBTAINED: Final = {"tls_cert": (), "tls_key": ()}
ZONE: Final = f"iad.{DOMAIN}"


@pytest.fixture
def pebble(tmp_path: Path) -> Iterator[Pebble]:
    with Pebble(tmp_path / "pebble") as pebble:
        yield pebble


@pytest.fixture
def metrics_port() -> int:
    return free_port()


@pytest.fixture
def cluster(tmp_path: Path, pebble: Pebble, metrics_port: int) -> Iterator[Cluster]:
    """One node, whose region has files; the server is away from then on."""
    settings = {
        "acme_directory": pebble.directory,
        "acme_ca": pebble.ca,
        "domain": DOMAIN,
        "metrics_listen": Endpoint(LOOPBACK, metrics_port),
    }
    plans = (NodePlan("fra-1", "fra", settings=OBTAINED), NodePlan("fra-2", "fra", settings=OBTAINED))
    store = f"embedded:{tmp_path / 'registry.db'}"
    with Cluster(tmp_path, plans, store=store, settings=settings, publisher=pebble.publisher()) as cluster:
        eventually(lambda: connected(cluster))
        pebble.stop()
        yield cluster


def first_of_its_region(cluster: Cluster) -> RunningNode:
    """A node of a region that has had none, not started."""
    plan = NodePlan("iad-1", "iad", settings=OBTAINED)
    CaFolder.open(cluster.pki).add_node(plan.name, plan.region)
    cluster._raw_ports[plan.region] = cluster._raw_ports["fra"]
    node = cluster.nodes[plan.name] = RunningNode(cluster, cluster.node_config(plan))
    return node


@pytest.mark.timeout(180)
def test_all_say_so_and_it_is_tried_again(
    cluster: Cluster,
    pebble: Pebble,
    metrics_port: int,
    as_client: AsClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The registry's log and metrics, `doctor` and `node list`. The pauses between tries are those of the schedule, a
    thousandth as long."""
    monkeypatch.setattr(schedule, "_FIRST_PAUSE", schedule._FIRST_PAUSE // 1000)
    monkeypatch.setattr(schedule, "_LONGEST_PAUSE", schedule._LONGEST_PAUSE // 1000)
    node = first_of_its_region(cluster)
    # It waits for its certificate until the server is back.
    starting = threading.Thread(target=node.start, args=(4 * PATIENCE,), name="start a node")
    with caplog.at_level(logging.ERROR):
        starting.start()
        eventually(lambda: len([one for one in caplog.records if one.message == "certificate not obtained"]) > 1)
    failed = next(one for one in caplog.records if one.message == "certificate not obtained")
    assert failed.__dict__["zone"] == ZONE
    assert "cannot be reached" in failed.__dict__["reason"]

    doctor = Doctor(cluster, "--no-visits")
    code, told = doctor()
    assert code == 11
    assert {("zone-not-obtained", ZONE), ("node-lacks-regions", "iad-1"), ("region-without-node", "iad")} <= kinds(told)
    listed = CliRunner().invoke(main, [*doctor.given, "node", "list"])
    (line,) = [one for one in listed.stdout.splitlines() if one.startswith("iad-1")]
    assert "no certificate" in line
    assert f"the certificate of {ZONE} is not obtained: " in listed.stderr
    page = urllib.request.urlopen(f"http://{LOOPBACK}:{metrics_port}/metrics", timeout=10).read().decode()
    samples = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert float(samples[f'portway_registry_certificate_failures{{zone="{ZONE}"}}']) >= 1

    pebble.start()
    starting.join()
    cluster.visitors_ca = cluster.pki.parent / "roots.pem"
    cluster.visitors_ca.write_bytes(pebble.roots())
    as_client(cluster.environment())
    with named("own", region="iad") as tunnel:
        assert tunnel.host.endswith(f".{ZONE}")
        eventually(lambda: answered(cluster, "iad-1", tunnel.host) == "own")
    assert not {one for one in kinds(doctor()[1]) if one[0].startswith("zone-not")}
