"""This node as the other nodes see it: what it holds is told and answered, visits that they forward are served.

Here: the table's changes to the registry's batches and to the nodes of the same region; what other nodes say to the
memory of routes. Not here: lanes (arrivals.py, control.py), what is believed (routes.py).
"""

from collections.abc import Callable
from typing import Protocol

from portway_carrier.contract import Lane
from portway_proto.v1.lane_pb2 import Gone
from portway_proto.v1.lane_pb2 import Routes as RoutesMessage
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.frames import Opening
from portway_runtime.identities import NodeIdentity

from portway_relay.mesh.peers import Peers
from portway_relay.raw_ports.sibling_ports import SiblingPorts
from portway_relay.routing.routes import Routes
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import Tunnel
from portway_relay.visits import Visits


def without_owner(tunnel: TunnelInfo) -> TunnelInfo:
    """A tunnel as other nodes hear of it: whose it is, is no business of theirs."""
    told = TunnelInfo()
    told.CopyFrom(tunnel)
    told.ClearField("tenant")
    told.ClearField("token_id")
    return told


class Batches(Protocol):
    """What a registry is told."""

    def bound(self, tunnel: Tunnel) -> None: ...
    def withdrawn(self, label: str, epoch: int) -> None: ...


class TunnelAnnouncer:
    """The table's Announcer: a registry and the nodes of this region hear of every change."""

    def __init__(
        self, registry: Batches, peers: Peers, routes: Routes, describe: Callable[[Tunnel], TunnelInfo]
    ) -> None:
        """`describe` says of a tunnel what other nodes hear."""
        self._registry = registry
        self._peers = peers
        self._routes = routes
        self._describe = describe

    def bound(self, tunnel: Tunnel) -> None:
        self._routes.bound_here(tunnel.label, tunnel.epoch)
        self._registry.bound(tunnel)
        self._peers.tell_siblings(self._describe(tunnel), None)

    def withdrawn(self, label: str, epoch: int) -> None:
        self._registry.withdrawn(label, epoch)
        self._routes.let_go(label, epoch, closed=False)
        self._peers.tell_siblings(None, Gone(label=label, epoch=epoch))

    def closed(self, tunnel: Tunnel) -> None:
        self._routes.let_go(tunnel.label, tunnel.epoch, closed=True)
        gone = Gone(label=tunnel.label, epoch=tunnel.epoch, closed=True)
        self._peers.tell_siblings(None, gone)
        self._peers.tell_gone(gone, tunnel.entrances)


class PeerRequests:
    """The MeshEvents of this node."""

    def __init__(
        self,
        peers: Peers,
        table: TunnelTable,
        routes: Routes,
        sibling_ports: SiblingPorts,
        visits: Visits,
        describe: Callable[[Tunnel], TunnelInfo],
    ) -> None:
        self._peers = peers
        self._sibling_ports = sibling_ports
        self._table = table
        self._routes = routes
        self._visits = visits
        self._describe = describe

    def refusal(self, identity: NodeIdentity) -> str:
        return self._peers.refusal(identity)

    def visit_arrived(self, node: str, lane: Lane, opening: Opening) -> None:
        tunnel = self._table.live(opening.label)
        if tunnel is not None:
            tunnel.entrances.add(node)
        self._visits.start_forwarded(lane, opening, tunnel)

    def routes_received(self, node: str, routes: RoutesMessage) -> None:
        """A node speaks for itself only. What it holds it tells its own region: elsewhere nobody would contradict it.
        What it holds no more it may tell anybody."""
        is_sibling = self._peers.is_sibling(node)
        for tunnel in routes.bound:
            if is_sibling and tunnel.node == node and self._routes.learn(tunnel) is not None:
                self._sibling_ports.bound(node, tunnel)
        for gone in routes.gone:
            self._routes.forget(gone.label, node, gone.epoch, closed=gone.closed)
            if is_sibling:
                self._sibling_ports.gone(node, gone.label, gone.epoch)

    def is_known(self, node: str) -> bool:
        return self._peers.get(node) is not None

    def raw_tunnels_listed(self, node: str, raw_labels: set[str]) -> None:
        self._sibling_ports.whole(node, raw_labels)

    def control_lane_up(self, node: str) -> None:
        self._sibling_ports.heard_from(node)

    def control_lane_lost(self, node: str) -> None:
        self._sibling_ports.lost(node)

    def held_tunnel(self, label: str) -> TunnelInfo | None:
        tunnel = self._table.live(label)
        return None if tunnel is None else self._describe(tunnel)

    def closed_epoch(self, label: str) -> int:
        return self._routes.closed_epoch(label)
