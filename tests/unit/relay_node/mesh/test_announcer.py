"""Announcing tunnels and presences: which party hears of which change, in which order."""

from types import SimpleNamespace
from typing import Any

from portway_proto.v1.lane_pb2 import Gone, Routes
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_relay.mesh.announcer import TunnelAnnouncer
from portway_relay.routing.senders import TOKEN, Sender
from portway_testkit.signers import SessionSigner

LABEL = "k5zq2w7b3xav6mdy"
SENDER = Sender(TOKEN, "t1")
HOLDER = SimpleNamespace(token_id="t1")


class Tunnel:
    label = LABEL
    epoch = 3
    claim = "the claim"
    holder = HOLDER

    def __init__(self, *ingress_nodes: str) -> None:
        self.ingress_nodes = set(ingress_nodes)


class Parties:
    """The registry, the peers and the routes, which record what they hear in one list."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def bound(self, tunnel: Tunnel) -> None:
        self.heard.append(("registry", "bound", tunnel.label))

    def withdrawn(self, label: str, epoch: int) -> None:
        self.heard.append(("registry", "withdrawn", label, epoch))

    def presence_renewed(self, holder: object) -> None:
        self.heard.append(("registry", "presence", holder))

    def tell_siblings(self, routes: Routes) -> None:
        self.heard.append(("siblings", routes))

    def tell_far(self, routes: Routes, names: set[str]) -> None:
        self.heard.append(("ingress_nodes", routes, names))

    def bound_here(self, sender: Sender, claim: object) -> None:
        self.heard.append(("routes", sender, claim))

    def present_here(self, sender: Sender, presence: object) -> None:
        self.heard.append(("routes", sender, presence))

    def released(self, sender: Sender, label: str, epoch: int, *, closed: bool) -> None:
        self.heard.append(("let go", sender, label, epoch, closed))


def describe(tunnel: Any) -> TunnelInfo:
    return TunnelInfo(label=tunnel.label, epoch=tunnel.epoch)


def announcer() -> tuple[Parties, Any]:
    parties: Any = Parties()
    return parties, TunnelAnnouncer(parties, parties, parties, describe)


def test_a_binding_is_announced_to_all() -> None:
    """To the memory of routes first, so that nothing of lower rank is believed any more; then the registry and the
    siblings."""
    parties, tunnels = announcer()
    tunnels.bound(Tunnel())
    assert parties.heard == [
        ("routes", SENDER, "the claim"),
        ("registry", "bound", LABEL),
        ("siblings", Routes(bound=[TunnelInfo(label=LABEL, epoch=3)])),
    ]


def test_a_withdrawal_is_announced_with_its_epoch() -> None:
    """So that a late one removes nothing newer."""
    parties, tunnels = announcer()
    tunnels.withdrawn(Tunnel())
    assert parties.heard == [
        ("registry", "withdrawn", LABEL, 3),
        ("let go", SENDER, LABEL, 3, False),
        ("siblings", Routes(gone=[Gone(label=LABEL, epoch=3)])),
    ]


def test_a_tunnel_that_its_client_closed_is_announced_to_all_nodes_with_a_route() -> None:
    """To siblings, and to the nodes of other regions that its visitors came in at: no visitor waits for it."""
    parties, tunnels = announcer()
    tunnels.closed(Tunnel("nyc-1"))
    routes = Routes(gone=[Gone(label=LABEL, epoch=3, closed=True)])
    assert parties.heard == [
        ("let go", SENDER, LABEL, 3, True),
        ("siblings", routes),
        ("ingress_nodes", routes, {"nyc-1"}),
    ]


def test_a_renewed_presence_is_announced_to_all_nodes_with_a_route() -> None:
    """A route ends with its presence: it reaches siblings, a registry, and the nodes that visits entered at."""
    parties, tunnels = announcer()
    presence = SessionSigner().present("here")
    tunnels.presence_renewed(HOLDER, presence, [Tunnel("nyc-1"), Tunnel("nyc-1", "ams-1")])
    routes = Routes(presences=[presence.encoded])
    assert parties.heard == [
        ("routes", SENDER, presence),
        ("registry", "presence", HOLDER),
        ("siblings", routes),
        ("ingress_nodes", routes, {"nyc-1", "ams-1"}),
    ]


def test_a_registry_hears_of_the_first_presence_with_its_tunnels() -> None:
    """The batch that announces them has it; a session without tunnels is nothing to a registry."""
    parties, tunnels = announcer()
    tunnels.presence_renewed(HOLDER, SessionSigner().present("here"), [])
    assert [who for who, *_ in parties.heard] == ["routes", "siblings", "ingress_nodes"]
