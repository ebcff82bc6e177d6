"""Announcing the tunnels of this node: to the memory of routes, to the registry, to the other nodes.

Here: which party hears of which change. Not here: how it reaches them (registry_link/, peers.py).
"""

from collections.abc import Callable
from typing import Protocol

from portway_proto.v1.lane_pb2 import Gone
from portway_proto.v1.types_pb2 import TunnelInfo

from portway_relay.mesh.peers import Peers
from portway_relay.routing.routes import Routes
from portway_relay.routing.tunnel import Tunnel


def without_owner(tunnel: TunnelInfo) -> TunnelInfo:
    """A copy without tenant and token id, which other nodes do not need to know."""
    copy = TunnelInfo()
    copy.CopyFrom(tunnel)
    copy.ClearField("tenant")
    copy.ClearField("token_id")
    return copy


class RegistryAnnouncer(Protocol):
    """Announces to the registry."""

    def bound(self, tunnel: Tunnel) -> None: ...
    def withdrawn(self, label: str, epoch: int) -> None: ...


class TunnelAnnouncer:
    """The tunnel table's Announcer.

    The registry and the siblings, which are the nodes of this region, hear of every change. Nodes of other regions hear
    only that a tunnel was closed, if visitors of it came in there.
    """

    def __init__(
        self, registry: RegistryAnnouncer, peers: Peers, routes: Routes, describe: Callable[[Tunnel], TunnelInfo]
    ) -> None:
        """`describe` gives a tunnel as other nodes are to know it."""
        self._registry = registry
        self._peers = peers
        self._routes = routes
        self._describe = describe

    def bound(self, tunnel: Tunnel) -> None:
        """Tell the routes first, so that nothing older is believed from here on."""
        self._routes.bound_here(tunnel.label, tunnel.epoch)
        self._registry.bound(tunnel)
        self._peers.tell_siblings(self._describe(tunnel), None)

    def withdrawn(self, label: str, epoch: int) -> None:
        self._registry.withdrawn(label, epoch)
        self._routes.mark_released(label, epoch, closed=False)
        self._peers.tell_siblings(None, Gone(label=label, epoch=epoch))

    def closed(self, tunnel: Tunnel) -> None:
        self._routes.mark_released(tunnel.label, tunnel.epoch, closed=True)
        gone = Gone(label=tunnel.label, epoch=tunnel.epoch, closed=True)
        self._peers.tell_siblings(None, gone)
        self._peers.tell_gone(gone, tunnel.entrances)
