"""One of two replicas of the registry answers no call: it accepts connections, completes their handshakes and answers
gRPC's pings. Who asks it goes to the other one."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import portway
import pytest
from portway.config import Settings
from portway.engine.grpc_registries import CALL_TIMEOUT, GrpcRegistries
from portway_lab.cluster import portway as programs
from portway_lab.cluster.portway import NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes, Restartable
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.hung_replica import HANG, PROGRAM
from portway_testkit.fixtures import AsClient
from portway_testkit.links.connect_proxy import ConnectProxy
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import serves

pytestmark = pytest.mark.timeout(120)  # four programs are started for each

NODES = (NodePlan("fra-1", "fra", 50.1, 8.7),)
PORTWAY_ADMIN = (Path(sys.executable).with_name("portway-admin"),)
# Seconds. A node gives a registry ten to register it; an operator waits three for one of several.
REGISTERED_WITHIN = 10.0
TOLD_WITHIN = 3.0
SLACK = 10.0  # for starting programs on a busy machine


@dataclass(frozen=True, slots=True)
class Hung:
    """A cluster whose first registry answers nothing, and what was begun there before."""

    cluster: programs.Cluster
    node: Restartable

    def admin(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """`portway-admin` with both registries, the one that hangs first."""
        cluster = self.cluster
        options = ("--registry", ",".join(cluster.registries), "--ca", cluster.ca)
        command = map(str, (*PORTWAY_ADMIN, *options, "--token-file", cluster.admin_token_file, *words))
        return subprocess.run([*command], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def hung(etcd: EtcdServer) -> Iterator[Hung]:
    plan = RegistryPlan(store=f"etcd:{etcd.url}")
    first = RegistryPlan(store=f"etcd:{etcd.url}", program=PROGRAM)
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        cluster = start_cluster(processes, NODES, first, (plan,))
        Restartable(processes, cluster.registry_process).signal(HANG)
        yield Hung(cluster, Restartable(processes, cluster.nodes[0].process))


def test_a_client_asks_the_other_one(hung: Hung, as_client: AsClient, own_time: OwnTime) -> None:
    """After three seconds, and the next time at once."""
    cluster = hung.cluster
    as_client(cluster.exports)
    registries = GrpcRegistries(Settings(cluster.registries, cluster.token, cluster.ca.read_bytes()))
    began = time.monotonic()
    assert own_time.of(lambda: registries.renew(bytes(32))) < 2 * CALL_TIMEOUT
    assert time.monotonic() - began >= CALL_TIMEOUT
    assert own_time.of(lambda: registries.renew(bytes(32))) < CALL_TIMEOUT
    with HttpOrigin() as origin, portway.forward(origin.port) as tunnel:
        assert serves(tunnel, cluster.ca)


def test_a_node_registers_at_the_other_one(hung: Hung, as_client: AsClient, own_time: OwnTime) -> None:
    """One that starts, and that serves then."""
    hung.node.kill()
    assert own_time.of(hung.node.start) < REGISTERED_WITHIN + SLACK
    as_client(hung.cluster.exports)
    with HttpOrigin() as origin, portway.forward(origin.port) as tunnel:
        assert serves(tunnel, hung.cluster.ca)


def test_an_operator_is_answered_by_the_other_one(hung: Hung, own_time: OwnTime) -> None:
    """Also what changes something, which is done once; and through a proxy."""
    began = own_time()
    made = hung.admin("token", "create", "--tenant", "others")
    assert made.returncode == 0, made.stderr
    assert own_time() - began < TOLD_WITHIN + SLACK
    with ConnectProxy() as proxy:
        began = own_time()
        listed = hung.admin("--proxy", proxy.url, "--json", "token", "list", "--tenant", "others")
        assert own_time() - began < TOLD_WITHIN + SLACK
    assert listed.stdout.count('"tenant": "others"') == 1, listed.stderr
