"""Announcing the tunnels of this node: to the memory of routes, to the registry, to the other nodes.

Here: which party hears of which change. Not here: how it reaches them (registry_link/, peers.py).
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from portway_proto.v1.lane_pb2 import Gone
from portway_proto.v1.lane_pb2 import Routes as RoutesMessage
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import Presence

from portway_relay.mesh.peers import Peers
from portway_relay.routing.routes import Routes
from portway_relay.routing.senders import TOKEN, Sender
from portway_relay.routing.tunnel import Holder, Tunnel


class RegistryAnnouncer(Protocol):
    """Announces to the registry."""

    def bound(self, tunnel: Tunnel) -> None: ...
    def withdrawn(self, label: str, epoch: int) -> None: ...
    def presence_renewed(self, holder: Holder) -> None: ...


class TunnelAnnouncer:
    """The tunnel table's Announcer, and that of sessions' presences.

    The registry and the siblings, which are the nodes of this region, hear of every change. Nodes of other regions hear
    of renewed presences and closed tunnels, if visitors of the tunnel came in there.
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
        """Tell the routes first, so that nothing of a lower rank is believed from here on."""
        self._routes.bound_here(_sender(tunnel), tunnel.claim)
        self._registry.bound(tunnel)
        self._peers.tell_siblings(RoutesMessage(bound=[self._describe(tunnel)]))

    def withdrawn(self, tunnel: Tunnel) -> None:
        label, epoch = tunnel.label, tunnel.epoch
        self._registry.withdrawn(label, epoch)
        self._routes.released(_sender(tunnel), label, epoch, closed=False)
        self._peers.tell_siblings(RoutesMessage(gone=[Gone(label=label, epoch=epoch)]))

    def closed(self, tunnel: Tunnel) -> None:
        self._routes.released(_sender(tunnel), tunnel.label, tunnel.epoch, closed=True)
        routes = RoutesMessage(gone=[Gone(label=tunnel.label, epoch=tunnel.epoch, closed=True)])
        self._peers.tell_siblings(routes)
        self._peers.tell_far(routes, tunnel.ingress_nodes)

    def presence_renewed(self, holder: Holder, presence: Presence, tunnels: Iterable[Tunnel]) -> None:
        """A session that holds these tunnels, or is about to bind some, has a presence that was checked."""
        self._routes.present_here(Sender(TOKEN, holder.token_id), presence)
        held = list(tunnels)
        if held:  # those that are about to be bound bring it along
            self._registry.presence_renewed(holder)
        routes = RoutesMessage(presences=[presence.encoded])
        self._peers.tell_siblings(routes)
        self._peers.tell_far(routes, {node for tunnel in held for node in tunnel.ingress_nodes})


def _sender(tunnel: Tunnel) -> Sender:
    return Sender(TOKEN, tunnel.holder.token_id)
