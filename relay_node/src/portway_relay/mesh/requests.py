"""What other nodes report and request on their lanes, carried out at this node.

Here: which part of the node each is for, and what a node is believed. Not here: the lanes (inbound_lanes.py), whether a
route is believed (routing/routes.py). One hop, never a loop: a forwarded visit is served from this node's own tunnels
or refused.
"""

from collections.abc import Callable

from portway_carrier.contract import Lane
from portway_proto.v1.lane_pb2 import Routes as RoutesMessage
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.frames import Opening
from portway_runtime.identities import NodeIdentity

from portway_relay.mesh.peers import Peers
from portway_relay.raw_ports.sibling_ports import SiblingPorts
from portway_relay.routing.routes import Routes
from portway_relay.routing.tunnel import HeldTunnels, Tunnel
from portway_relay.visits import Visits


class PeerRequests:
    """The MeshEvents of a node."""

    def __init__(
        self,
        peers: Peers,
        tunnels: HeldTunnels,
        routes: Routes,
        sibling_ports: SiblingPorts,
        visits: Visits,
        describe: Callable[[Tunnel], TunnelInfo],
    ) -> None:
        """`describe` gives a tunnel as other nodes are to know it."""
        self._peers = peers
        self._sibling_ports = sibling_ports
        self._tunnels = tunnels
        self._routes = routes
        self._visits = visits
        self._describe = describe

    def refusal(self, identity: NodeIdentity) -> str:
        return self._peers.refusal(identity)

    def is_known(self, node: str) -> bool:
        return self._peers.get(node) is not None

    def control_lane_up(self, node: str) -> None:
        self._sibling_ports.heard_from(node)

    def control_lane_lost(self, node: str) -> None:
        self._sibling_ports.lost(node)

    def visit_arrived(self, node: str, lane: Lane, opening: Opening) -> None:
        tunnel = self._tunnels.live(opening.label)
        if tunnel is not None:
            tunnel.entrances.add(node)
        self._visits.start_forwarded(lane, opening, tunnel)

    def routes_received(self, node: str, routes: RoutesMessage) -> None:
        """A node is believed about itself only. What it holds is believed of siblings alone, as no other node would
        contradict it elsewhere; what it holds no more is believed of any node."""
        is_sibling = self._peers.is_sibling(node)
        for tunnel in routes.bound:
            if is_sibling and tunnel.node == node and self._routes.learn(tunnel) is not None:
                self._sibling_ports.bound(node, tunnel)
        for gone in routes.gone:
            self._routes.forget(gone.label, node, gone.epoch, closed=gone.closed)
            if is_sibling:
                self._sibling_ports.gone(node, gone.label, gone.epoch)

    def raw_tunnels_listed(self, node: str, labels: set[str]) -> None:
        self._sibling_ports.whole(node, labels)

    def held_tunnel(self, label: str) -> TunnelInfo | None:
        tunnel = self._tunnels.live(label)
        return None if tunnel is None else self._describe(tunnel)

    def closed_epoch(self, label: str) -> int:
        return self._routes.closed_epoch(label)
