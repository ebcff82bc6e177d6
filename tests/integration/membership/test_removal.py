"""A node that joined and was removed is refused everywhere within seconds, until it is invited anew."""

import os
import sys
from pathlib import Path

import portway
import pytest
from portway_proto.v1.admin_pb2 import NODE_ORDER_REMOVE
from portway_testkit.clusters.joining import Joiner
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.own_time import OwnTime
from portway_testkit.processes.running_program import RunningProgram
from portway_testkit.visitors.mesh_visitors import get
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.waiting import eventually

# Seconds from the order until nobody serves the node any more; on a machine that does other things too.
WITHIN = 5.0


def lanes_from(joiner: Joiner, at: str, node: str) -> int:
    """How many lanes of a node another one holds."""

    async def count() -> int:
        return joiner.cluster.nodes[at].node._serving.inbound_lanes.count(node)

    return joiner.cluster.run(count)


def await_text(program: RunningProgram, text: str) -> None:
    eventually(lambda: text in program.errors())


@pytest.fixture
def removed(joiner: Joiner, as_client: AsClient, own_time: OwnTime) -> Joiner:
    """Two nodes that were connected, the second removed since."""
    joiner.join("fra-1")
    joiner.join("fra-2")
    eventually(lambda: connected(joiner.cluster))
    as_client(joiner.cluster.environment())
    began = own_time()
    joiner.cluster.admin.order("fra-2", NODE_ORDER_REMOVE)
    eventually(lambda: lanes_from(joiner, "fra-1", "fra-2") == 0)
    eventually(lambda: not joiner.cluster.nodes["fra-2"].metrics()["registry_connected"])
    assert own_time() - began < WITHIN
    return joiner


def test_it_is_refused_by_all(removed: Joiner, origin: HttpOrigin) -> None:
    """Clients are sent to the other node, which takes no lane of it and dials none to it."""
    with portway.forward(origin.port):
        eventually(lambda: [tunnel.node for tunnel in removed.cluster.admin.tunnels()] == ["fra-1"])
    refused = removed.cluster.nodes["fra-2"].metrics()
    assert refused["registry_connected"] == 0
    assert lanes_from(removed, "fra-1", "fra-2") == 0
    assert [node.name for node in removed.cluster.admin.nodes()] == ["fra-1"]


def test_its_clients_are_elsewhere_before_it_stops(joiner: Joiner, as_client: AsClient, origin: HttpOrigin) -> None:
    """They are asked to leave as in a drain, and stay attached meanwhile: each URL stays."""
    joiner.join("fra-1")
    as_client(joiner.cluster.environment())
    with portway.forward(origin.port) as tunnel:
        joiner.join("fra-2")
        eventually(lambda: connected(joiner.cluster))
        first = joiner.cluster.nodes["fra-1"]
        joiner.cluster.admin.order("fra-1", NODE_ORDER_REMOVE)
        eventually(lambda: [tunnel.node for tunnel in joiner.cluster.admin.tunnels()] == ["fra-2"])
        eventually(lambda: first.was_removed)
        assert get(joiner.cluster.nodes["fra-2"], tunnel, joiner.cluster.ca) == f"{origin.name}\n".encode()
        assert first.node.not_ready() == "removed from the cluster"


def test_its_program_ends_with_a_code_of_its_own(joiner: Joiner, tmp_path: Path) -> None:
    """While it runs, and when it is started again; each with one line that says why."""
    config = joiner.config("fra-1", token=joiner.invite())
    joiner.enter(config)
    given = {
        "name": config.name,
        "region": config.region,
        "domain": config.domain,
        "listen": "127.0.0.1:0",
        "registry": config.registry[0],
        "cluster-ca": config.cluster_ca,
        "cert": config.cert,
        "key": config.key,
        "tls-cert": config.tls_cert[0],
        "tls-key": config.tls_key[0],
        "raw-ports": f"{config.raw_ports.first}-{config.raw_ports.last}",
    }
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-c", "from portway_relay.cli import main; main()", "serve", *flags]
    for number, begins in enumerate(("node serves", "no registry")):
        with RunningProgram(command, dict(os.environ), tmp_path / f"log-{number}") as program:
            await_text(program, begins)
            if begins == "node serves":
                joiner.cluster.admin.order("fra-1", NODE_ORDER_REMOVE)
            assert program.ended() == 3
            assert program.errors().count("the cluster admits this node no more") == 1


def test_its_old_certificate_is_worth_nothing_once_it_was_invited_anew(removed: Joiner) -> None:
    """The machine that has the new one is let in by all; who still has the old one is not, under the same name."""
    old = removed.cluster.nodes.pop("fra-2")
    anew = removed.config("fra-2", token=removed.invite(node="fra-2"), state="anew")
    removed.enter(anew)
    try:
        removed.run(anew)
        eventually(lambda: connected(removed.cluster))
        assert old.metrics()["registry_connected"] == 0
        assert lanes_from(removed, "fra-1", "fra-2") > 0
    finally:
        old.stop()
