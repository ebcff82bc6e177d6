"""A node's state, and its way out: orders of operators (cordon, drain), and the wait before it stops.

Here: asking clients to leave, and what is waited for. Not here: the order in which parts are closed (node.py).
"""

import asyncio
import logging
from typing import Final

from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY, NodeState

from portway_relay.ingress.http_port import HttpPort
from portway_relay.ingress.public_port import PublicPort
from portway_relay.mesh.peers import Peers
from portway_relay.registry_link.outbox import Outbox
from portway_relay.routing.tunnel import HeldTunnels
from portway_relay.sessions.sessions import Sessions
from portway_relay.visits import Visits

logger = logging.getLogger(__name__)

# Seconds that connections accepted just before the node stops listening get to send their ClientHello or request.
_HAND_ON_TIME: Final = 1.0


class Lifecycle:
    """Ready, cordoned, draining or stopping."""

    def __init__(
        self,
        sessions: Sessions,
        peers: Peers,
        tunnels: HeldTunnels,
        visits: Visits,
        public_port: PublicPort,
        http_port: HttpPort,
        outbox: Outbox,
        *,
        grace: float,
    ) -> None:
        """grace: seconds that clients and visits have to leave when the node stops."""
        self._sessions = sessions
        self._peers = peers
        self._tunnels = tunnels
        self._visits = visits
        self._public_port = public_port
        self._http_port = http_port
        self._outbox = outbox
        self._order: NodeState.ValueType = NODE_STATE_READY
        self.grace = grace
        self.stopping = False
        self.removed = False  # the cluster admits this node no more

    @property
    def state(self) -> "NodeState.ValueType":
        """The state that is reported to registries."""
        return NODE_STATE_DRAINING if self.stopping or self.removed else self._order

    def obey(self, order: "NodeState.ValueType") -> None:
        """Take the state that an operator orders; ignored once the node stops or was removed."""
        if order == self._order or self.stopping or self.removed:
            return
        logger.info("ordered", extra={"state": NodeState.Name(order)})
        self._order = order
        if order == NODE_STATE_DRAINING:
            self._sessions.ask_to_leave("this node is being drained")
        elif order == NODE_STATE_CORDONED:
            self._sessions.refuse_new()
        else:
            self._sessions.accept_new()
        self._outbox.state_changed()

    def remove(self) -> None:
        """The cluster admits this node no more: ask clients to leave at once. The node is to be stopped then."""
        self.removed = True
        self._sessions.ask_to_leave("this node was removed from the cluster")

    async def leave(self) -> None:
        """Notify the registry and the clients that the node stops, and wait until clients and visits are gone.

        Visitors that arrive meanwhile are served, or forwarded to where their tunnel is now. After `grace` seconds it
        returns in any case. May be called again.

        A node that was removed can forward nothing, as other nodes refuse its lanes: it listens no more as soon as its
        clients are gone.
        """
        self.stopping = True
        self._outbox.state_changed()
        if not self.removed:
            self._sessions.ask_to_leave("this node is stopping")
        try:
            async with asyncio.timeout(self.grace):
                if len(self._peers):  # without another node clients cannot attach elsewhere, and stay to the end
                    await self._sessions.over()
                if not self.removed:
                    await self._visits.over()
                await self._public_port.stop_listening(within=_HAND_ON_TIME)
                await self._http_port.stop_listening(within=_HAND_ON_TIME)
                for tunnel in self._tunnels.all_live():
                    if tunnel.raw is not None:
                        tunnel.raw.pause()
                await self._visits.over()
        except TimeoutError:
            logger.info("visits are cut: the grace period is over", extra={"visits": self._visits.running})
