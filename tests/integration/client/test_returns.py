"""A client whose node is not the nearest goes to one that is, before it leaves the one it has: on real sockets.

The nodes are all on loopback, so what a dial measures is set here.
"""

import logging
import socket
from dataclasses import replace
from typing import Any

import portway
import pytest
import trustme
from portway.engine import dialling, returns
from portway_proto.v1 import lane_pb2
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.visitors.recovery import label_of
from portway_testkit.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment")]

TIMES = "look=0.1,rest=0.2,ready=0.2,spread=0.2,pause=0.6"


@pytest.fixture
def distances(second_node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The round trip to each node in milliseconds. The second one is in a region of its own."""
    second_node.region = "far"
    found = {"one": 72.0, "two": 223.0, "three": 72.0}
    dial = dialling.dial

    async def far_dial(carrier: Any, node: Any, cluster_ca: bytes) -> dialling.Dialled:
        dialled = await dial(carrier, node, cluster_ca)
        ms = found[node.name]
        return replace(dialled, round_trip=replace(dialled.round_trip, ms=ms), took=2 * ms / 1000)

    monkeypatch.setattr(dialling, "dial", far_dial)
    monkeypatch.setattr(returns, "dial", far_dial)
    monkeypatch.setenv("PORTWAY_RETURNS", TIMES)
    return found


@pytest.mark.usefixtures("distances")
def test_a_client_goes_to_a_nearer_node_and_loses_no_visit(
    registry: FakeRegistry, node: FakeNode, second_node: FakeNode, echo: Any, exchange: Any, log: Any
) -> None:
    """All tunnels of the session together, under their URLs: bound there first, then the old node is told where, then
    left. A visit in progress there goes on to its end. One line says from where to where, and how far away both are."""
    registry.nodes = [second_node]
    with portway.forward(echo.port) as tunnel, portway.forward(8001) as other:
        visitor, ended = second_node.visit(label_of(tunnel))
        with visitor:
            visitor.sendall(b"begun")
            assert visitor.recv(5) == b"begun"
            registry.nodes = [second_node, node]
            node.wait(lambda: len(node.tunnels) == 2)
            second_node.wait(lambda: second_node.count("goaway") == 1)
            assert exchange(node, tunnel.host, b"at the nearer one") == b"at the nearer one"
            visitor.sendall(b"and on")
            assert visitor.recv(6) == b"and on"
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(1) == b""
        ended.result(PATIENCE)
        moved = [event for event in second_node.events if event[0] in ("moved", "goaway")]
        assert {event[1] for event in moved[:2]} == {label_of(tunnel), label_of(other)}
        assert {event[2] for event in moved[:2]} == {"one"}
        assert moved[2] == ("goaway",)
        assert max(node.times("bind")) <= second_node.times("goaway")[0]
        assert log.lines == [
            (logging.INFO, "node two (223 ms away) is left for node one (72 ms), which is nearer"),
        ]


def test_at_the_nearest_node_nobody_is_dialled(
    registry: FakeRegistry, node: FakeNode, second_node: FakeNode, distances: dict[str, float]
) -> None:
    """Looks are calls to a registry, which also bring the grant: nothing is renewed besides."""
    distances["two"] = 75.0
    registry.nodes = [node, second_node]
    second_node.after = node
    with portway.forward(8000):
        eventually(lambda: registry.locates >= 5)
        assert second_node.events.count(("hello", False)) == 0
        assert len(node.tunnels) == 1
        assert registry.renews == 0


@pytest.mark.usefixtures("distances")
def test_a_node_that_refuses_is_not_asked_again_at_once(
    registry: FakeRegistry, node: FakeNode, second_node: FakeNode, log: Any
) -> None:
    """The client stays where it is; the next try comes after a pause, and the one after that after a longer one."""
    node.refuse_hello = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_OVERLOADED, message="full")
    registry.nodes = [second_node]
    with portway.forward(8000):
        registry.nodes = [second_node, node]
        node.wait(lambda: node.count("hello refused") >= 3)
        first, second, third = node.times("hello refused")[:3]
        assert second - first >= 0.6
        assert third - second >= 1.2
        assert len(second_node.tunnels) == 1
        assert second_node.count("goaway") == 0
        node.refuse_hello = None
        node.wait(lambda: len(node.tunnels) == 1)
    log.wait(logging.INFO, "node one is nearer, and did not take this client: full")


@pytest.mark.usefixtures("distances")
def test_a_node_that_does_not_take_every_tunnel_is_left_again(
    registry: FakeRegistry, node: FakeNode, second_node: FakeNode
) -> None:
    """The node before has them all again, under higher epochs, before either session is left."""
    node.refuse_bind = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_OVERLOADED, retry_after_ms=60_000)
    node.accepted_binds = 1
    registry.nodes = [second_node]
    with portway.forward(8000) as tunnel, portway.forward(8001) as other:
        registry.nodes = [second_node, node]
        second_node.wait(lambda: second_node.count("bind") == 4)
        second_node.wait(lambda: second_node.count("goaway") == 1)
        assert {label_of(tunnel), label_of(other)} == set(second_node.tunnels)
        assert second_node.count("hello") == 2
        node.wait(lambda: node.count("goaway") == 1)
        assert max(second_node.times("bind")) <= node.times("goaway")[0]


@pytest.mark.usefixtures("distances")
def test_a_raw_port_is_not_given_up(
    registry: FakeRegistry, node: FakeNode, second_node: FakeNode, authority: trustme.CA
) -> None:
    """A nearer node of another region is left alone while a tunnel has a raw port here; one of this region is not."""
    registry.nodes = [second_node]
    with FakeNode("three", authority) as third:
        with portway.forward(8000):
            with portway.forward(8001, unencrypted=True) as raw:
                registry.nodes = [second_node, node]
                before = registry.locates
                eventually(lambda: registry.locates >= before + 5)
                assert node.events == []
                third.region = "far"
                registry.expected["three"] = 70.0
                registry.nodes = [second_node, node, third]
                third.wait(lambda: len(third.tunnels) == 2)
                assert third.tickets_shown(label_of(raw)) == [f"20001 {label_of(raw)}".encode()]
            registry.nodes = [third]


@pytest.mark.usefixtures("distances")
def test_a_raw_port_that_the_flight_has_cost_comes_back(
    registry: FakeRegistry, node: FakeNode, second_node: FakeNode, log: Any
) -> None:
    """It is one of the region that was fled from, and the ticket for it is kept."""
    registry.nodes = [node, second_node]
    second_node.after = node
    with portway.forward(8000, unencrypted=True) as tunnel:
        node.stop()
        log.wait(logging.ERROR, "could not keep its TCP port 20001")
        node.__enter__()
        log.wait(logging.WARNING, "has its TCP port 20001 again")
        assert node.tickets_shown(label_of(tunnel))[-1] == f"20001 {label_of(tunnel)}".encode()
        second_node.wait(lambda: second_node.count("goaway") == 1)


@pytest.mark.usefixtures("distances")
def test_never_is_never(registry: FakeRegistry, node: FakeNode, second_node: FakeNode) -> None:
    """Not even a registry is asked."""
    registry.nodes = [second_node]
    with portway.forward(8000, returns="never"), portway.forward(8001) as moving:
        registry.nodes = [second_node, node]
        node.wait(lambda: len(node.tunnels) == 1)
        assert set(node.tunnels) == {label_of(moving)}
        second_node.wait(lambda: len(second_node.tunnels) == 1)


def test_by_location_the_nearest_on_the_map_is_gone_back_to(
    registry: FakeRegistry, node: FakeNode, second_node: FakeNode, distances: dict[str, float]
) -> None:
    """Whatever the dials take: the registry's distances count."""
    distances.update(one=300.0, two=1.0)
    registry.expected = {"one": 10.0, "two": 90.0}
    registry.nodes = [second_node]
    with portway.forward(8000, strategy="geoip"):
        registry.nodes = [node, second_node]
        node.wait(lambda: len(node.tunnels) == 1)
        second_node.wait(lambda: second_node.count("goaway") == 1)


@pytest.mark.usefixtures("distances")
def test_tunnels_that_are_closed_meanwhile_stay_closed(
    registry: FakeRegistry, node: FakeNode, second_node: FakeNode
) -> None:
    """The nearer node has answered HELLO when the last tunnel is closed: it is left as it came."""
    registry.nodes = [second_node]
    with portway.forward(8000):
        registry.nodes = [second_node, node]
        node.wait(lambda: node.count("hello") == 1)
    node.wait(lambda: not node.tunnels)
    second_node.wait(lambda: not second_node.tunnels)
