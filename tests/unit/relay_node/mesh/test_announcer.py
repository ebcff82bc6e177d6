"""Announcing tunnels: which party hears of which change, in which order."""

from typing import Any

from portway_proto.v1.lane_pb2 import Gone
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_relay.mesh.announcer import TunnelAnnouncer, without_owner

LABEL = "k5zq2w7b3xav6mdy"


class Tunnel:
    label = LABEL
    epoch = 3

    def __init__(self, *entrances: str) -> None:
        self.entrances = set(entrances)


class Parties:
    """The registry, the peers and the routes, which record what they hear in one list."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def bound(self, tunnel: Tunnel) -> None:
        self.heard.append(("registry", "bound", tunnel.label))

    def withdrawn(self, label: str, epoch: int) -> None:
        self.heard.append(("registry", "withdrawn", label, epoch))

    def tell_siblings(self, bound: TunnelInfo | None, gone: Gone | None) -> None:
        self.heard.append(("siblings", bound, gone))

    def tell_gone(self, gone: Gone, names: set[str]) -> None:
        self.heard.append(("entrances", gone, names))

    def bound_here(self, label: str, epoch: int) -> None:
        self.heard.append(("routes", label, epoch))

    def mark_released(self, label: str, epoch: int, *, closed: bool) -> None:
        self.heard.append(("let go", label, epoch, closed))


def describe(tunnel: Any) -> TunnelInfo:
    return TunnelInfo(label=tunnel.label, epoch=tunnel.epoch)


def announcer() -> tuple[Parties, Any]:
    parties: Any = Parties()
    return parties, TunnelAnnouncer(parties, parties, parties, describe)


def test_a_binding_is_announced_to_all() -> None:
    """To the memory of routes first, so that nothing older is believed any more; then the registry and the siblings."""
    parties, tunnels = announcer()
    tunnels.bound(Tunnel())
    assert parties.heard == [
        ("routes", LABEL, 3),
        ("registry", "bound", LABEL),
        ("siblings", TunnelInfo(label=LABEL, epoch=3), None),
    ]


def test_a_withdrawal_is_announced_with_its_epoch() -> None:
    """So that a late one removes nothing newer."""
    parties, tunnels = announcer()
    tunnels.withdrawn(LABEL, 3)
    assert parties.heard == [
        ("registry", "withdrawn", LABEL, 3),
        ("let go", LABEL, 3, False),
        ("siblings", None, Gone(label=LABEL, epoch=3)),
    ]


def test_a_tunnel_that_its_client_closed_is_announced_to_all_nodes_with_a_route() -> None:
    """To siblings, and to the nodes of other regions that its visitors came in at: no visitor waits for it."""
    parties, tunnels = announcer()
    tunnels.closed(Tunnel("nyc-1"))
    gone = Gone(label=LABEL, epoch=3, closed=True)
    assert parties.heard == [("let go", LABEL, 3, True), ("siblings", None, gone), ("entrances", gone, {"nyc-1"})]


def test_other_nodes_do_not_learn_the_owner_of_a_tunnel() -> None:
    """They learn what they need to route, and no more; the original is unchanged."""
    tunnel = TunnelInfo(label=LABEL, node="a", epoch=2, proof=b"p", tenant="acme", token_id="t1")
    assert without_owner(tunnel) == TunnelInfo(label=LABEL, node="a", epoch=2, proof=b"p")
    assert tunnel.tenant == "acme"
