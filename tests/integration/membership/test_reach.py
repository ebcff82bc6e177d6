"""A node is offered to clients once its advertised address was reached, from another node or the registry."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import portway
import pytest
from portway_proto.v1 import types_pb2
from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.clusters.joining import Joiner
from portway_testkit.clusters.registry import SESSION_KEY
from portway_testkit.fixtures import AsClient
from portway_testkit.links.link import Link
from portway_testkit.processes.ports import held_port
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.waiting import PATIENCE, eventually


@pytest.fixture(autouse=True)
def patient_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registration waits for its first probe for two seconds at most, which a busy machine may take."""
    for limit in ("_FIRST_PROBE_TIMEOUT", "DIAL_TIMEOUT"):
        monkeypatch.setattr(f"portway_registry.nodes.reachability.{limit}", PATIENCE)


@contextmanager
def closed_link(cluster: Cluster, port: int) -> Iterator[Link]:
    """A way to a port that resets every connection until it is mended."""

    async def close() -> None:
        await link.__aexit__()

    async def refuse() -> None:
        link.cut(refuse=True)

    link = Link(port)
    cluster.run(link.__aenter__)
    try:
        cluster.run(refuse)
        yield link
    finally:
        cluster.run(close)


def offered(cluster: Cluster, token: str) -> list[str]:
    """The names of the nodes that Locate names, none when it names nobody."""
    credentials = grpc.ssl_channel_credentials(cluster.ca.read_bytes())
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(cluster.registry_address, credentials, options=options) as channel:
        try:
            answer = DiscoveryStub(channel).Locate(
                LocateRequest(session_key=SESSION_KEY), metadata=(("authorization", f"Bearer {token}"),), timeout=10
            )
        except grpc.RpcError as error:
            if "not reached" in (error.details() or ""):
                return []
            raise
        return [candidate.node.name for candidate in answer.candidates]


def reach_of(cluster: Cluster, name: str) -> types_pb2.NodeInfo:
    """The node as the registry shows it, as soon as it does: a moment after the node has registered."""
    shown: list[types_pb2.NodeInfo] = []

    def is_shown() -> bool:
        shown[:] = [node for node in cluster.admin.nodes() if node.name == name]
        return bool(shown)

    eventually(is_shown)
    return shown[0]


def test_a_node_that_is_reached_is_offered_at_once(joiner: Joiner, as_client: AsClient, origin: HttpOrigin) -> None:
    """The first client that comes after a start is served: a start with nothing amiss waits for nobody."""
    joiner.join("fra-1")
    as_client(joiner.cluster.environment())
    with portway.forward(origin.port):
        assert reach_of(joiner.cluster, "fra-1").reach == types_pb2.REACH_REACHED


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "with another"])
def test_an_unreachable_node_is_offered_once_it_is_reached(
    joiner: Joiner, caplog: pytest.LogCaptureFixture, others: int
) -> None:
    """Until then it is shown with the reason, to operators and in its own log, and no client is sent there."""
    cluster = joiner.cluster
    for number in range(others):
        joiner.join(f"fra-{number + 2}")
    token = cluster.token()
    elsewhere = [f"fra-{number + 2}" for number in range(others)]
    node = joiner.join("fra-1")
    node.stop()

    async def open_firewall() -> None:
        link.mend()

    with closed_link(cluster, node.port) as link:
        with caplog.at_level(logging.WARNING, "portway_relay.registry_link.message_handler"):
            node = joiner.run(dataclasses.replace(node.config, advertise=Endpoint(LOOPBACK, link.port)))
            eventually(lambda: reach_of(cluster, "fra-1").reach == types_pb2.REACH_FAILED)
            eventually(lambda: "no clients are sent here" in caplog.text)
        failure = reach_of(cluster, "fra-1").reach_failure
        assert "from the registry: " in failure
        assert all(f"from node {name}: " in failure for name in elsewhere)
        assert offered(cluster, token) == elsewhere
        cluster.run(open_firewall)
        eventually(lambda: "fra-1" in offered(cluster, token))
        assert reach_of(cluster, "fra-1").reach_failure == ""
        node.stop()


def test_an_address_is_looked_at_again_when_it_changes(joiner: Joiner) -> None:
    """A node that was reached and comes back with another address is not believed."""
    cluster = joiner.cluster
    node = joiner.join("fra-1")
    token = cluster.token()
    assert reach_of(cluster, "fra-1").reach == types_pb2.REACH_REACHED
    assert offered(cluster, token) == ["fra-1"]
    node.stop()
    with held_port() as held:
        moved = joiner.run(dataclasses.replace(node.config, advertise=Endpoint(*held.getsockname())))
        moved.until_shown()
        assert offered(cluster, token) == []
        moved.stop()
    joiner.run(node.config).until_shown()
    assert offered(cluster, token) == ["fra-1"]


def test_another_node_at_the_address_is_not_the_node(joiner: Joiner) -> None:
    """Who answers must show the node's own certificate."""
    first = joiner.join("fra-1")
    joiner.join("fra-2", advertise=Endpoint(LOOPBACK, first.port))
    eventually(lambda: reach_of(joiner.cluster, "fra-2").reach == types_pb2.REACH_FAILED)
    assert "from the registry: not this node" in reach_of(joiner.cluster, "fra-2").reach_failure
    assert offered(joiner.cluster, joiner.cluster.token()) == ["fra-1"]


def test_operators_may_do_without(start: Callable[..., Joiner]) -> None:
    """Where neither nodes nor registry get to what clients get to."""
    joiner = start(check_addresses="no")
    with held_port() as held:
        joiner.join("fra-1", advertise=Endpoint(*held.getsockname())).until_shown()
        assert offered(joiner.cluster, joiner.cluster.token()) == ["fra-1"]


def test_nodes_of_a_cluster_reach_each_other(start: Callable[..., Joiner]) -> None:
    """A node that is asked by the registry tries as a client does; what it found is what counts."""
    joiner = start()
    for name, region in (("fra-1", "fra"), ("iad-1", "iad"), ("syd-1", "syd")):
        joiner.join(name, region)
        assert reach_of(joiner.cluster, name).reach == types_pb2.REACH_REACHED
