"""Which raw ports siblings' tunnels have, as far as it is believed."""

import logging

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_relay.raw_ports.sibling_ports import SiblingClaims, SiblingPorts
from portway_testkit.fakes.clock import ManualClock

REST = 60.0
PORT = 20_003


class Node:
    """A node's own account, its sockets, and what its siblings say."""

    def __init__(self, clock: ManualClock) -> None:
        self.held: dict[int, str] = {}
        self.rested: list[tuple[int, str]] = []
        self.served: dict[int, str] = {}
        self.claims = SiblingClaims(rest=REST, clock=clock)
        self.ports = SiblingPorts("fra", range(20_000, 20_100), self.claims, self, self)

    def holder(self, port: int) -> str | None:
        return self.held.get(port)

    def rest(self, port: int, label: str) -> None:
        self.rested.append((port, label))

    def serve(self, port: int, label: str) -> None:
        self.served[port] = label

    def stop_serving(self, port: int) -> None:
        self.served.pop(port, None)

    def hears(self, node: str, label: str, port: int = PORT, *, epoch: int = 1, region: str = "fra") -> None:
        self.ports.heard_from(node)
        self.ports.bound(node, TunnelInfo(label=label, node=node, region=region, epoch=epoch, unencrypted_port=port))


@pytest.fixture
def node(clock: ManualClock) -> Node:
    return Node(clock)


def test_a_siblings_port_is_served(node: Node) -> None:
    """From when it is told until it is let go; then it rests for its label."""
    node.hears("b", "one")
    assert node.served == {PORT: "one"}
    assert node.claims.label(PORT) == "one"
    assert node.claims.believed(PORT)
    node.ports.gone("b", "one", 1)
    assert node.served == {}
    assert node.claims.label(PORT) is None
    assert node.rested == [(PORT, "one")]


@pytest.mark.parametrize(("port", "region"), [(0, "fra"), (443, "fra"), (20_100, "fra"), (PORT, "nyc")])
def test_nothing_else_is_listened_on(node: Node, port: int, region: str) -> None:
    """A port outside the region's range, or one of another region, whatever a sibling says."""
    node.hears("b", "one", port, region=region)
    assert node.served == {}
    assert len(node.claims) == 0


def test_a_tunnel_takes_its_port_along(node: Node) -> None:
    """The old home's goodbye comes after the new one's news, and means nothing."""
    node.hears("b", "one")
    node.hears("c", "one", epoch=2)
    node.ports.gone("b", "one", 1)
    assert node.served == {PORT: "one"}
    node.ports.gone("c", "one", 2)
    assert node.served == {}


def test_old_news_come_too_late(node: Node) -> None:
    """A lower epoch says nothing; neither does a goodbye of a lower one, or of another node."""
    node.hears("b", "one", epoch=3)
    node.hears("c", "one", PORT + 1, epoch=2)
    node.ports.gone("b", "one", 2)
    node.ports.gone("c", "one", 9)
    assert node.served == {PORT: "one"}


def test_a_tunnel_may_get_another_port(node: Node) -> None:
    """The one before rests."""
    node.hears("b", "one")
    node.hears("b", "one", PORT + 1, epoch=2)
    assert node.served == {PORT + 1: "one"}
    assert node.rested == [(PORT, "one")]
    node.hears("b", "one", 0, epoch=3)
    assert node.served == {}


def test_an_own_tunnels_port_is_no_siblings(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """What a sibling says of it is logged, and changes nothing for its visitors."""
    node.held[PORT] = "mine"
    with caplog.at_level(logging.WARNING):
        node.hears("b", "one")
    assert node.served == {}
    assert node.claims.label(PORT) is None
    assert "sibling claims a raw port of this node" in caplog.text


def test_an_own_tunnel_that_moves_is_served_on(node: Node) -> None:
    """It is told of before this node has let go of it."""
    node.held[PORT] = "one"
    node.hears("b", "one", epoch=2)
    assert node.served == {PORT: "one"}


def test_a_port_that_its_node_gives_anew_is_the_new_tunnels(node: Node) -> None:
    """The goodbye of the one before was lost."""
    node.hears("b", "one")
    node.hears("b", "two")
    assert node.served == {PORT: "two"}
    node.ports.gone("b", "one", 1)
    assert node.served == {PORT: "two"}


def test_a_port_that_two_nodes_have_is_nobodys(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """A visitor of one must not end up at the other; when one of them is gone the other one's word is good again."""
    node.hears("b", "one")
    node.hears("c", "two")
    assert node.served == {}
    assert "two nodes of the region claim it" in caplog.text
    assert not node.claims.believed(PORT)
    node.hears("b", "one")
    assert node.served == {}
    node.ports.gone("b", "one", 1)
    node.hears("c", "two")
    assert node.served == {PORT: "two"}
    assert node.claims.believed(PORT)


def test_a_lost_nodes_port_is_another_ones_word(node: Node) -> None:
    """It cannot contradict."""
    node.hears("b", "one")
    node.ports.lost("b")
    assert node.served == {PORT: "one"}
    node.hears("c", "two")
    assert node.served == {PORT: "two"}


def test_a_lost_node_is_believed_for_a_while(node: Node, clock: ManualClock) -> None:
    """Visitors are led by label all the while; but a ticket for its port needs a registry after half a rest."""
    node.hears("b", "one")
    node.ports.lost("b")
    clock.now += REST / 2 - 1
    assert node.claims.believed(PORT)
    clock.now += 1
    assert not node.claims.believed(PORT)
    assert node.served == {PORT: "one"}
    node.ports.heard_from("b")
    assert node.claims.believed(PORT)


def test_what_a_node_does_not_name_any_more_is_gone(node: Node) -> None:
    """It was started anew, or its goodbyes were lost; other nodes' ports stay."""
    node.hears("b", "one")
    node.hears("b", "two", PORT + 1)
    node.hears("c", "three", PORT + 2)
    node.ports.whole("b", {"two"})
    assert node.served == {PORT + 1: "two", PORT + 2: "three"}
    assert node.rested == [(PORT, "one")]
