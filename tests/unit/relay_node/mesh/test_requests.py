"""What other nodes report and request: which part of the node receives it, and what they are believed."""

from typing import Any

from portway_proto.v1.lane_pb2 import Gone
from portway_proto.v1.lane_pb2 import Routes as RoutesMessage
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.frames import Opening
from portway_relay.mesh.requests import PeerRequests

LABEL = "k5zq2w7b3xav6mdy"


class Tunnel:
    label = LABEL
    epoch = 3

    def __init__(self) -> None:
        self.entrances: set[str] = set()


class Parts:
    """The peers, the table, the routes and the visits, which record what reaches them in one list."""

    def __init__(self) -> None:
        self.received: list[tuple[Any, ...]] = []
        self.tunnels: dict[str, Tunnel] = {}
        self.disbelieved: set[str] = set()

    def is_sibling(self, node: str) -> bool:
        return node.startswith("fra-")

    def get(self, node: str) -> str | None:
        return node if node == "fra-2" else None

    def live(self, label: str) -> Tunnel | None:
        return self.tunnels.get(label)

    def learn(self, tunnel: TunnelInfo) -> TunnelInfo | None:
        self.received.append(("learn", tunnel.label))
        return None if tunnel.label in self.disbelieved else tunnel

    def forget(self, label: str, node: str, epoch: int, *, closed: bool) -> None:
        self.received.append(("forget", label, node, epoch, closed))

    def closed_epoch(self, label: str) -> int:
        return 7 if label == LABEL else 0

    def start_forwarded(self, lane: object, opening: Opening, tunnel: Tunnel | None) -> None:
        self.received.append(("visit", lane, opening, tunnel))


class SiblingPorts:
    """Records what reaches it in the same list."""

    def __init__(self, parts: Parts) -> None:
        self._received = parts.received

    def bound(self, node: str, tunnel: TunnelInfo) -> None:
        self._received.append(("port of", node, tunnel.label))

    def gone(self, node: str, label: str, epoch: int) -> None:
        self._received.append(("no port of", node, label, epoch))

    def whole(self, node: str, labels: set[str]) -> None:
        self._received.append(("whole", node, labels))

    def heard_from(self, node: str) -> None:
        self._received.append(("heard from", node))

    def lost(self, node: str) -> None:
        self._received.append(("lost", node))


def describe(tunnel: Any) -> TunnelInfo:
    return TunnelInfo(label=tunnel.label, epoch=tunnel.epoch)


def peer_requests() -> tuple[Parts, Any]:
    parts: Any = Parts()
    ports: Any = SiblingPorts(parts)
    return parts, PeerRequests(parts, parts, parts, ports, parts, describe)


def test_a_node_is_believed_about_itself_alone() -> None:
    """Tunnels that it reports of another node are ignored; what it holds no more is its own."""
    parts, requests = peer_requests()
    bound = [TunnelInfo(label="a", node="fra-2"), TunnelInfo(label="b", node="fra-1")]
    requests.routes_received("fra-2", RoutesMessage(bound=bound, gone=[Gone(label="c", epoch=2, closed=True)]))
    assert parts.received == [
        ("learn", "a"),
        ("port of", "fra-2", "a"),
        ("forget", "c", "fra-2", 2, True),
        ("no port of", "fra-2", "c", 2),
    ]


def test_raw_ports_are_believed_of_siblings_together_with_their_tunnels() -> None:
    """A raw port belongs to the region; a tunnel that is outdated, or whose proof does not fit, has none."""
    parts, requests = peer_requests()
    parts.disbelieved.add("old")
    requests.routes_received("fra-2", RoutesMessage(bound=[TunnelInfo(label="old", node="fra-2")]))
    assert parts.received == [("learn", "old")]


def test_tunnels_of_a_node_of_another_region_are_ignored() -> None:
    """This node asks for them; no node would contradict what is reported unasked. What it holds no more is believed."""
    parts, requests = peer_requests()
    gone = [Gone(label="b", epoch=1, closed=True)]
    requests.routes_received("nyc-1", RoutesMessage(bound=[TunnelInfo(label="far", node="nyc-1")], gone=gone))
    assert parts.received == [("forget", "b", "nyc-1", 1, True)]


def test_contact_and_complete_lists_reach_the_siblings_ports() -> None:
    """They tell what is outdated."""
    parts, requests = peer_requests()
    requests.control_lane_up("fra-2")
    requests.raw_tunnels_listed("fra-2", {"a"})
    requests.control_lane_lost("fra-2")
    assert parts.received == [("heard from", "fra-2"), ("whole", "fra-2", {"a"}), ("lost", "fra-2")]
    assert requests.is_known("fra-2")
    assert not requests.is_known("fra-9")


def test_only_own_tunnels_are_answered_and_visited() -> None:
    """A route is neither: one hop, never a loop. The node where a tunnel's visitors come in is remembered."""
    parts, requests = peer_requests()
    opening = Opening(LABEL, "192.0.2.1", 1)
    assert requests.held_tunnel(LABEL) is None
    requests.visit_arrived("nyc-1", "lane", opening)
    tunnel = parts.tunnels[LABEL] = Tunnel()
    assert requests.held_tunnel(LABEL) == TunnelInfo(label=LABEL, epoch=3)
    requests.visit_arrived("nyc-1", "lane", opening)
    assert parts.received == [("visit", "lane", opening, None), ("visit", "lane", opening, tunnel)]
    assert tunnel.entrances == {"nyc-1"}


def test_a_closed_label_is_answered_with_its_epoch() -> None:
    """As the memory of routes has it."""
    _, requests = peer_requests()
    assert [requests.closed_epoch(label) for label in (LABEL, "other")] == [7, 0]
