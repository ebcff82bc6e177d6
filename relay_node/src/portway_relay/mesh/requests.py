"""What other nodes report and request on their lanes, carried out at this node.

Here: which part of the node each is for. Not here: the lanes (inbound_lanes.py), what of it is believed
(routing/routes.py). One hop, never a loop: a forwarded visit is served from this node's own tunnels or refused.
"""

import asyncio
from collections.abc import Callable, Sequence

from portway_carrier.contract import Lane
from portway_proto.v1.lane_pb2 import Answer
from portway_proto.v1.lane_pb2 import Routes as RoutesMessage
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.frames import Opening
from portway_proto.wire.statements import read_presence
from portway_runtime.identities import NodeIdentity

from portway_relay.mesh.peers import Peers
from portway_relay.mesh.sibling_tunnels import SiblingTunnels
from portway_relay.routing.routes import Routes
from portway_relay.routing.senders import NODE, Sender
from portway_relay.routing.tunnel import HeldTunnels, Tunnel, claim_of
from portway_relay.routing.verification import Verification
from portway_relay.visits import Visits


class PeerRequests:
    """The MeshEvents of a node."""

    def __init__(
        self,
        peers: Peers,
        tunnels: HeldTunnels,
        routes: Routes,
        verification: Verification,
        siblings: SiblingTunnels,
        visits: Visits,
        describe: Callable[[Tunnel], TunnelInfo],
    ) -> None:
        """`describe` gives a tunnel as other nodes are to know it."""
        self._peers = peers
        self._siblings = siblings
        self._tunnels = tunnels
        self._routes = routes
        self._verification = verification
        self._visits = visits
        self._describe = describe

    def refusal(self, identity: NodeIdentity) -> str:
        return self._peers.refusal(identity)

    def is_known(self, node: str) -> bool:
        return self._peers.get(node) is not None

    def visit_arrived(self, node: str, lane: Lane, opening: Opening) -> None:
        tunnel = self._tunnels.live(opening.label)
        if tunnel is not None:
            tunnel.ingress_nodes.add(node)
        self._visits.start_forwarded(lane, opening, tunnel)

    def routes_received(self, node: str, routes: RoutesMessage) -> Sequence[asyncio.Future[None]]:
        """Statements are kept, and checked when they are of use. What a node holds is heard of siblings alone; what it
        holds no more is believed of any node about itself."""
        sender, listening = Sender(NODE, node), []
        if routes.state:
            self._peers.hear_state(node, routes.state)
        is_sibling = self._peers.is_sibling(node)
        for presence in map(read_presence, routes.presences):
            label = self._routes.hear_presence(sender, presence)
            if label is not None:
                self._verification.soon(label)
        for tunnel in routes.bound:
            if not is_sibling or tunnel.node != node:
                continue
            claim = claim_of(tunnel)
            if self._routes.hear_claim(sender, claim):
                self._verification.soon(claim.label)
            if self._siblings.concerns(tunnel):
                listening.append(self._siblings.heard(sender, tunnel, claim))
        for gone in routes.gone:
            self._routes.released(sender, gone.label, gone.epoch, closed=gone.closed)
            if is_sibling:
                self._siblings.gone(node, gone.label, gone.epoch)
        return listening

    def raw_tunnels_listed(self, node: str, labels: set[str]) -> None:
        self._siblings.whole(node, labels)

    def answer(self, label: str) -> Answer:
        tunnel = self._tunnels.live(label)
        if tunnel is None or tunnel.holder.presence is None:
            return Answer(closed_epoch=self._routes.closed_epoch(label))
        return Answer(tunnel=self._describe(tunnel), presence=tunnel.holder.presence.encoded)
