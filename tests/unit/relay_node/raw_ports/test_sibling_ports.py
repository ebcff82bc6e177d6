"""Which raw ports siblings' tunnels have, once what they have shown was checked."""

import pytest
from portway_relay.raw_ports.sibling_ports import SiblingPort, SiblingPortMap, SiblingPorts

PORT = 20_003


class Node:
    """A node's own account, its sockets, and what its siblings have shown."""

    def __init__(self) -> None:
        self.rested: list[tuple[int, str]] = []
        self.served: dict[int, str] = {}
        self.known = SiblingPortMap()
        self.ports = SiblingPorts(range(20_000, 20_100), self.known, self, self)

    def rest(self, port: int, label: str) -> None:
        self.rested.append((port, label))

    def serve(self, port: int, label: str) -> None:
        self.served[port] = label

    def stop_serving(self, port: int, label: str) -> None:
        assert self.served.pop(port, label) == label

    def hears(self, node: str, label: str, port: int = PORT, *, epoch: int = 1) -> None:
        self.ports.bound(SiblingPort(label, node, epoch, port))


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_siblings_port_is_served(node: Node) -> None:
    """From when it is told until it is let go; then it rests for its label."""
    node.hears("b", "one")
    assert node.served == {PORT: "one"}
    assert node.known.label(PORT) == "one"
    node.ports.gone("b", "one", 1)
    assert node.served == {}
    assert node.known.label(PORT) is None
    assert node.rested == [(PORT, "one")]


@pytest.mark.parametrize("port", [0, 443, 20_100])
def test_nothing_else_is_listened_on(node: Node, port: int) -> None:
    """A port outside the region's range, whatever a sibling says."""
    node.hears("b", "one", port)
    assert node.served == {}
    assert len(node.known) == 0


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


def test_a_port_that_its_node_gives_anew_is_the_new_tunnels(node: Node) -> None:
    """The goodbye of the one before was lost."""
    node.hears("b", "one")
    node.hears("b", "two")
    assert node.served == {PORT: "two"}
    node.ports.gone("b", "one", 1)
    assert node.served == {PORT: "two"}


def test_the_newest_ticket_has_the_port(node: Node) -> None:
    """Its owner has given it to another label, at another node: visitors of one must not end up at the other."""
    node.hears("b", "one")
    node.hears("c", "two")
    assert node.served == {PORT: "two"}
    node.ports.gone("b", "one", 1)
    assert node.served == {PORT: "two"}


def test_what_a_node_does_not_name_any_more_is_gone(node: Node) -> None:
    """It was started anew, or its goodbyes were lost; other nodes' ports stay."""
    node.hears("b", "one")
    node.hears("b", "two", PORT + 1)
    node.hears("c", "three", PORT + 2)
    node.ports.whole("b", {"two"})
    assert node.served == {PORT + 1: "two", PORT + 2: "three"}
    assert node.rested == [(PORT, "one")]
