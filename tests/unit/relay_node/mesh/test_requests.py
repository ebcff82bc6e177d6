"""What other nodes report and request: which part of the node receives it."""

from types import SimpleNamespace
from typing import Any

import pytest
from portway_proto.v1.lane_pb2 import Answer, Gone
from portway_proto.v1.lane_pb2 import Routes as RoutesMessage
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, TunnelInfo
from portway_proto.wire.frames import Opening
from portway_proto.wire.statements import Claim, Presence, StatementInvalid
from portway_relay.mesh.requests import PeerRequests
from portway_relay.routing.senders import NODE, Sender
from portway_testkit.signers import SessionSigner, tunnel_info

FRA_2, NYC_1 = Sender(NODE, "fra-2"), Sender(NODE, "nyc-1")


class Tunnel:
    def __init__(self, claim: Claim, presence: Presence | None) -> None:
        self.claim = claim
        self.label = claim.label
        self.ingress_nodes: set[str] = set()
        self.holder = SimpleNamespace(presence=presence)


class Parts:
    """The peers, the table, the routes and the visits, which record what reaches them in one list."""

    def __init__(self) -> None:
        self.received: list[tuple[Any, ...]] = []
        self.tunnels: dict[str, Tunnel] = {}
        self.contested: set[object] = set()

    def is_sibling(self, node: str) -> bool:
        return node.startswith("fra-")

    def get(self, node: str) -> str | None:
        return node if node == "fra-2" else None

    def hear_state(self, node: str, state: int) -> None:
        self.received.append(("state", node, state))

    def live(self, label: str) -> Tunnel | None:
        return self.tunnels.get(label)

    def hear_claim(self, sender: Sender, claim: Claim) -> bool:
        self.received.append(("claim", sender, claim))
        return claim in self.contested

    def hear_presence(self, sender: Sender, presence: Presence) -> str | None:
        self.received.append(("presence", sender, presence))
        return "a label of its session" if presence in self.contested else None

    def soon(self, label: str) -> None:
        self.received.append(("settle", label))

    def released(self, sender: Sender, label: str, epoch: int, *, closed: bool) -> None:
        self.received.append(("released", sender, label, epoch, closed))

    def closed_epoch(self, label: str) -> int:
        return 7

    def start_forwarded(self, lane: object, opening: Opening, tunnel: Tunnel | None) -> None:
        self.received.append(("visit", lane, opening, tunnel))


class Siblings:
    """Records what reaches it in the same list."""

    def __init__(self, parts: Parts) -> None:
        self._received = parts.received

    def concerns(self, tunnel: TunnelInfo) -> bool:
        return bool(tunnel.unencrypted_port)

    def heard(self, sender: Sender, tunnel: TunnelInfo, claim: Claim) -> Any:
        self._received.append(("port of", sender, claim))
        return "listening"

    def gone(self, node: str, label: str, epoch: int) -> None:
        self._received.append(("no port of", node, label, epoch))

    def whole(self, node: str, labels: set[str]) -> None:
        self._received.append(("whole", node, labels))


def describe(tunnel: Any) -> TunnelInfo:
    return tunnel_info(tunnel.claim)


def peer_requests() -> tuple[Parts, Any]:
    parts: Any = Parts()
    siblings: Any = Siblings(parts)
    return parts, PeerRequests(parts, parts, parts, parts, siblings, parts, describe)


def test_a_node_speaks_of_itself_alone() -> None:
    """Tunnels that it reports of another node are ignored; what it holds no more is its own."""
    parts, requests = peer_requests()
    mine, other = SessionSigner().claim(node="fra-2"), SessionSigner().claim(node="fra-1")
    gone = [Gone(label="c", epoch=2, closed=True)]
    listening = requests.routes_received(
        "fra-2", RoutesMessage(bound=[tunnel_info(mine), tunnel_info(other)], gone=gone)
    )
    assert listening == []
    assert parts.received == [
        ("claim", FRA_2, mine),
        ("released", FRA_2, "c", 2, True),
        ("no port of", "fra-2", "c", 2),
    ]


def test_a_nodes_state_is_its_own_word() -> None:
    """Of any region, in a frame of its own as well; a frame that says none changes none."""
    parts, requests = peer_requests()
    requests.routes_received("nyc-1", RoutesMessage(state=NODE_STATE_DRAINING))
    requests.routes_received("nyc-1", RoutesMessage())
    assert parts.received == [("state", "nyc-1", NODE_STATE_DRAINING)]


def test_what_contests_what_is_in_use_is_checked_soon() -> None:
    """A claim to a label that leads elsewhere, a presence that routes in use depend on."""
    parts, requests = peer_requests()
    signer = SessionSigner()
    claim, presence = signer.claim(node="fra-2"), signer.present("fra-2")
    parts.contested = {claim, presence}
    requests.routes_received("fra-2", RoutesMessage(bound=[tunnel_info(claim)], presences=[presence.encoded]))
    assert parts.received == [
        ("presence", FRA_2, presence),
        ("settle", "a label of its session"),
        ("claim", FRA_2, claim),
        ("settle", claim.label),
    ]


def test_a_raw_port_is_listened_on_when_all_is_checked() -> None:
    """The frame is acknowledged then."""
    parts, requests = peer_requests()
    claim = SessionSigner().claim(node="fra-2", unencrypted=True)
    assert requests.routes_received("fra-2", RoutesMessage(bound=[tunnel_info(claim, port=20_000)])) == ["listening"]
    assert parts.received == [("claim", FRA_2, claim), ("port of", FRA_2, claim)]


def test_of_a_node_of_another_region_presences_and_ends_are_heard() -> None:
    """This node asks it for the tunnels that visitors come for."""
    parts, requests = peer_requests()
    signer = SessionSigner()
    claim, presence = signer.claim(node="nyc-1"), signer.present("nyc-1")
    gone = [Gone(label="b", epoch=1, closed=True)]
    message = RoutesMessage(bound=[tunnel_info(claim)], gone=gone, presences=[presence.encoded])
    requests.routes_received("nyc-1", message)
    assert parts.received == [("presence", NYC_1, presence), ("released", NYC_1, "b", 1, True)]


@pytest.mark.parametrize("what", ["presence", "claim", "description"])
def test_what_has_not_its_form_is_an_error(what: str) -> None:
    """Its lane is closed for it."""
    _, requests = peer_requests()
    described = tunnel_info(SessionSigner().claim(node="fra-2"))
    if what == "presence":
        message = RoutesMessage(presences=[b"short"])
    elif what == "claim":
        described.claim = b"short"
        message = RoutesMessage(bound=[described])
    else:
        described.epoch += 1
        message = RoutesMessage(bound=[described])
    with pytest.raises(StatementInvalid):
        requests.routes_received("fra-2", message)


def test_complete_lists_reach_the_siblings_ports() -> None:
    """They tell what is outdated."""
    parts, requests = peer_requests()
    requests.raw_tunnels_listed("fra-2", {"a"})
    assert parts.received == [("whole", "fra-2", {"a"})]
    assert requests.is_known("fra-2")
    assert not requests.is_known("fra-9")


def test_only_own_tunnels_are_answered_and_visited() -> None:
    """A route is neither: one hop, never a loop. The node where a tunnel's visitors come in is remembered."""
    parts, requests = peer_requests()
    signer = SessionSigner()
    tunnel = Tunnel(signer.claim(node="fra-1"), signer.present("fra-1"))
    opening = Opening(tunnel.label, "192.0.2.1", 1)
    assert requests.answer(tunnel.label) == Answer(closed_epoch=7)
    requests.visit_arrived("nyc-1", "lane", opening)
    parts.tunnels[tunnel.label] = tunnel
    assert tunnel.holder.presence is not None
    assert requests.answer(tunnel.label) == Answer(
        tunnel=tunnel_info(tunnel.claim), presence=tunnel.holder.presence.encoded
    )
    requests.visit_arrived("nyc-1", "lane", opening)
    assert parts.received == [("visit", "lane", opening, None), ("visit", "lane", opening, tunnel)]
    assert tunnel.ingress_nodes == {"nyc-1"}
