"""This node as others see it: what is told to whom, and what is done with what they tell."""

from typing import Any

from portway_proto.v1.lane_pb2 import Gone
from portway_proto.v1.lane_pb2 import Routes as RoutesMessage
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.frames import Opening
from portway_relay.mesh.announcer import TunnelAnnouncer, without_owner
from portway_relay.mesh.requests import PeerRequests

LABEL = "k5zq2w7b3xav6mdy"


class Tunnel:
    label = LABEL
    epoch = 3

    def __init__(self) -> None:
        self.entrances: set[str] = set()


class Around:
    """Everybody who is told something, in the order of the telling."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.tunnels: dict[str, Tunnel] = {}
        self.disbelieved: set[str] = set()

    def bound(self, tunnel: Tunnel) -> None:
        self.told.append(("registry", "bound", tunnel.label))

    def withdrawn(self, label: str, epoch: int) -> None:
        self.told.append(("registry", "withdrawn", label, epoch))

    def tell_siblings(self, bound: TunnelInfo | None, gone: Gone | None) -> None:
        self.told.append(("siblings", bound, gone))

    def bound_here(self, label: str, epoch: int) -> None:
        self.told.append(("routes", label, epoch))

    def learn(self, tunnel: TunnelInfo) -> TunnelInfo | None:
        self.told.append(("learn", tunnel.label))
        return None if tunnel.label in self.disbelieved else tunnel

    def is_sibling(self, node: str) -> bool:
        return node.startswith("fra-")

    def get(self, node: str) -> str | None:
        return node if node == "fra-2" else None

    def tell_gone(self, gone: Gone, names: set[str]) -> None:
        self.told.append(("entrances", gone, names))

    def let_go(self, label: str, epoch: int, *, closed: bool) -> None:
        self.told.append(("let go", label, epoch, closed))

    def closed_epoch(self, label: str) -> int:
        return 7 if label == LABEL else 0

    def forget(self, label: str, node: str, epoch: int, *, closed: bool) -> None:
        self.told.append(("forget", label, node, epoch, closed))

    def start_forwarded(self, lane: object, opening: Opening, tunnel: Tunnel | None) -> None:
        self.told.append(("visit", lane, opening, tunnel))

    def live(self, label: str) -> Tunnel | None:
        return self.tunnels.get(label)


class SiblingPorts:
    """Remembers, with the others, what it is told."""

    def __init__(self, around: Around) -> None:
        self._told = around.told

    def bound(self, node: str, tunnel: TunnelInfo) -> None:
        self._told.append(("port of", node, tunnel.label))

    def gone(self, node: str, label: str, epoch: int) -> None:
        self._told.append(("no port of", node, label, epoch))

    def whole(self, node: str, labels: set[str]) -> None:
        self._told.append(("whole", node, labels))

    def heard_from(self, node: str) -> None:
        self._told.append(("heard from", node))

    def lost(self, node: str) -> None:
        self._told.append(("lost", node))


def describe(tunnel: Any) -> TunnelInfo:
    return TunnelInfo(label=tunnel.label, epoch=tunnel.epoch)


def outward() -> tuple[Around, Any]:
    around: Any = Around()
    return around, TunnelAnnouncer(around, around, around, describe)


def inward() -> tuple[Around, Any]:
    around: Any = Around()
    ports: Any = SiblingPorts(around)
    return around, PeerRequests(around, around, around, ports, around, describe)


def test_a_binding_is_told_to_all() -> None:
    """To the memory of routes first, so that nothing older is believed any more; the registry, the siblings."""
    around, announcer = outward()
    announcer.bound(Tunnel())
    assert around.told == [
        ("routes", LABEL, 3),
        ("registry", "bound", LABEL),
        ("siblings", TunnelInfo(label=LABEL, epoch=3), None),
    ]


def test_a_goodbye_is_told_with_its_epoch() -> None:
    """So that a late one removes nothing newer."""
    around, announcer = outward()
    announcer.withdrawn(LABEL, 3)
    assert around.told == [
        ("registry", "withdrawn", LABEL, 3),
        ("let go", LABEL, 3, False),
        ("siblings", None, Gone(label=LABEL, epoch=3)),
    ]


def test_a_tunnel_that_its_client_closed_is_told_to_all_who_had_a_route() -> None:
    """Siblings, and nodes of other regions that its visitors came in at: nobody is kept waiting for it."""
    around, announcer = outward()
    tunnel: Any = Tunnel()
    tunnel.entrances = {"nyc-1"}
    announcer.closed(tunnel)
    gone = Gone(label=LABEL, epoch=3, closed=True)
    assert around.told == [("let go", LABEL, 3, True), ("siblings", None, gone), ("entrances", gone, {"nyc-1"})]


def test_a_node_is_heard_about_itself_alone() -> None:
    """Tunnels that it says are another's are passed over; what it lets go of is its own."""
    around, events = inward()
    bound = [TunnelInfo(label="a", node="fra-2"), TunnelInfo(label="b", node="fra-1")]
    events.routes_received("fra-2", RoutesMessage(bound=bound, gone=[Gone(label="c", epoch=2, closed=True)]))
    assert around.told == [
        ("learn", "a"),
        ("port of", "fra-2", "a"),
        ("forget", "c", "fra-2", 2, True),
        ("no port of", "fra-2", "c", 2),
    ]


def test_ports_are_believed_of_siblings_and_with_their_tunnels() -> None:
    """A raw port is its region's; a tunnel whose proof does not fit, or that is old, has none."""
    around, events = inward()
    around.disbelieved.add("old")
    events.routes_received("fra-2", RoutesMessage(bound=[TunnelInfo(label="old", node="fra-2")]))
    assert around.told == [("learn", "old")]


def test_a_node_of_another_region_is_not_listened_to() -> None:
    """What it holds is asked for; told unasked nobody would contradict it. What it holds no more is taken from it."""
    around, events = inward()
    gone = [Gone(label="b", epoch=1, closed=True)]
    events.routes_received("nyc-1", RoutesMessage(bound=[TunnelInfo(label="far", node="nyc-1")], gone=gone))
    assert around.told == [("forget", "b", "nyc-1", 1, True)]


def test_contact_and_whole_accounts_reach_the_siblings_ports() -> None:
    """They say what is outdated."""
    around, events = inward()
    events.control_lane_up("fra-2")
    events.raw_tunnels_listed("fra-2", {"a"})
    events.control_lane_lost("fra-2")
    assert around.told == [("heard from", "fra-2"), ("whole", "fra-2", {"a"}), ("lost", "fra-2")]
    assert events.is_known("fra-2")
    assert not events.is_known("fra-9")


def test_only_own_tunnels_are_answered_and_visited() -> None:
    """Routes are nobody's business: one hop, never a loop. Where a tunnel's visitors come in is remembered."""
    around, events = inward()
    opening = Opening(LABEL, "192.0.2.1", 1)
    assert events.held_tunnel(LABEL) is None
    events.visit_arrived("nyc-1", "lane", opening)
    tunnel = around.tunnels[LABEL] = Tunnel()
    assert events.held_tunnel(LABEL) == TunnelInfo(label=LABEL, epoch=3)
    events.visit_arrived("nyc-1", "lane", opening)
    assert around.told == [("visit", "lane", opening, None), ("visit", "lane", opening, tunnel)]
    assert tunnel.entrances == {"nyc-1"}


def test_what_was_closed_is_answered_with_its_epoch() -> None:
    """As the memory of routes has it."""
    _, events = inward()
    assert [events.closed_epoch(label) for label in (LABEL, "other")] == [7, 0]


def test_other_nodes_do_not_hear_whose_a_tunnel_is() -> None:
    """What they need to route, and no more; the original is not touched."""
    tunnel = TunnelInfo(label=LABEL, node="a", epoch=2, proof=b"p", tenant="acme", token_id="t1")
    assert without_owner(tunnel) == TunnelInfo(label=LABEL, node="a", epoch=2, proof=b"p")
    assert tunnel.tenant == "acme"
