"""A node's state, and its way out: orders of operators (cordon, drain), and the wait before it stops.

Here: asking clients to leave, and what is waited for. Not here: the order in which parts are closed (node.py).
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Final

from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY, NodeState
from portway_runtime.listener import finish
from portway_runtime.time_limit import time_limit

from portway_relay.ingress.http_port import HttpPort
from portway_relay.ingress.public_port import PublicPort
from portway_relay.ingress.raw_visitors import RawVisitors
from portway_relay.mesh.peers import Peers
from portway_relay.passages.passages import Passages
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.registry_link.outbox import Outbox
from portway_relay.sessions.sessions import Sessions
from portway_relay.visits import Visits

logger = logging.getLogger(__name__)

# Seconds that connections which began just before the node stops listening get to complete their handshake, and to
# send their ClientHello or request.
_HAND_ON_TIME: Final = 1.0
# Seconds without a byte, at least, after which a visit is idle: a pause in an answer is shorter as a rule, and half of
# one must not look complete.
_IDLE_TIME: Final = 1.0
# Share of the grace in which clients attach elsewhere while visitors are taken; the rest is for visits to finish.
_OPEN_SHARE: Final = 0.5
# The most of the grace that `_HAND_ON_TIME` takes: a stranger who says nothing makes it last, and visits need the rest.
_HAND_ON_SHARE: Final = 0.25


class Lifecycle:
    """Ready, cordoned, draining or stopping."""

    def __init__(
        self,
        sessions: Sessions,
        peers: Peers,
        visits: Visits,
        passages: Passages,
        public_port: PublicPort,
        http_port: HttpPort,
        raw_ports: RawPorts,
        raw_visitors: RawVisitors,
        outbox: Outbox,
        serves_own_zone: asyncio.Event,
        *,
        grace: float,
        lame_duck: float,
    ) -> None:
        """
        serves_own_zone: set once there is a certificate for this node's own names.
        grace: seconds that clients and visits have to leave when the node stops.
        lame_duck: seconds before, for which it goes on taking visitors.
        """
        self._sessions = sessions
        self._peers = peers
        self._visits = visits
        self._passages = passages
        self._public_port = public_port
        self._http_port = http_port
        self._raw_ports = raw_ports
        self._raw_visitors = raw_visitors
        self._outbox = outbox
        self._serves_own_zone = serves_own_zone
        self._order: NodeState.ValueType = NODE_STATE_READY
        self.grace = grace
        self.lame_duck = lame_duck
        self.stopping = False
        self.removed = False  # the cluster admits this node no more
        self._shut = False  # visitors are refused

    @property
    def state(self) -> "NodeState.ValueType":
        """The state that is reported to registries. Clients of a node without a certificate for its own names would get
        addresses that nobody can visit: it is sent none."""
        if self.stopping or self.removed:
            return NODE_STATE_DRAINING
        if self._order == NODE_STATE_READY and not self._serves_own_zone.is_set():
            return NODE_STATE_CORDONED
        return self._order

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
        self._tell_state()

    def remove(self) -> None:
        """The cluster admits this node no more: ask clients to leave at once. The node is to be stopped then."""
        self.removed = True
        self._peers.tell_state(self.state)
        self._sessions.ask_to_leave("this node was removed from the cluster")

    async def leave(self) -> None:
        """Notify the registry and the clients that the node stops, and wait until clients and visits are gone. May be
        called again.

        While clients attach elsewhere, and for `lame_duck` seconds at least, visitors that arrive are served, or
        forwarded to where their tunnel is now. Then all ports refuse them, so that they try another address of the
        name, and the visits that have begun finish: new ones do not make it last longer. It takes `lame_duck` and
        `grace` seconds at most; visits that are idle then are ended in order.

        A node that was removed can forward nothing, as other nodes refuse its lanes: it listens no more as soon as its
        clients are gone. One without other nodes has nowhere to send anybody: it takes visitors until the visits are
        over that were in progress.
        """
        self.stopping = True
        self._tell_state()
        if not self.removed:
            self._sessions.ask_to_leave("this node is stopping")
        stays = self.lame_duck if len(self._peers) and not self.removed and not self._shut else 0.0
        loop = asyncio.get_running_loop()
        end = loop.time() + stays + self.grace
        await _at_most(stays + self.grace * _OPEN_SHARE, self._until_ports_may_close(stays))
        self._shut = True
        within = min(_HAND_ON_TIME, self.grace * _HAND_ON_SHARE)
        await _at_most(within, self._stop_listening(within))
        before, since = self._visits.moved(), loop.time()
        if not await _at_most(end - loop.time(), self._over()):
            idle = self._visits.close_idle(before) if loop.time() - since >= _IDLE_TIME else 0
            about = {"visits": self._visits.running, "idle": idle}
            logger.info("visits are cut: the grace period is over", extra=about)

    def _tell_state(self) -> None:
        self._outbox.state_changed()
        self._peers.tell_state(self.state)

    async def _until_ports_may_close(self, stays: float) -> None:
        if len(self._peers):
            await asyncio.gather(self._sessions.over(), asyncio.sleep(stays))
        else:  # clients cannot attach elsewhere, and stay to the end
            await self._visits.over_of_now()

    async def _stop_listening(self, within: float) -> None:
        """At all ports at once; those who came before are accepted, and have the rest of the time to say what they
        want."""
        self._raw_ports.open_no_more()
        ports = (self._public_port.arrivals, self._http_port.arrivals, self._raw_ports)
        await finish([listener for port in ports for listener in port.listeners], within=within / 2)
        await asyncio.gather(self._public_port.arrivals.heard(), self._http_port.arrivals.heard())

    async def _over(self) -> None:
        """Wait until those who came before are handed on, and all visits and calls to registries have ended."""
        await asyncio.gather(self._public_port.over(), self._raw_visitors.over())
        await asyncio.gather(self._visits.over(), self._passages.over())


async def _at_most(seconds: float, waiting: Coroutine[None, None, object]) -> bool:
    """Wait for it, `seconds` at most. Whether it ended."""
    try:
        async with time_limit(seconds):
            await waiting
    except TimeoutError:
        return False
    return True
