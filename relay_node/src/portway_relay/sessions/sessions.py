"""All sessions of a node: who is admitted, who comes back, who has been away for too long.

Here: HELLO and PARK judged, the time a lost session is kept, revocation, the end of all. Not here: what a session asks
for (session.py).
"""

import asyncio
import hmac
import logging
from collections.abc import Callable, Iterable
from typing import Final

from portway_carrier.contract import Carrier, Lane
from portway_carrier.values import PoolLimits
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_REVOKED,
    FAILURE_CODE_SESSION,
    FAILURE_CODE_SHUTDOWN,
    Failure,
    Hello,
    Park,
    Welcome,
)
from portway_proto.wire.frames import FrameType
from portway_runtime.clocks import Monotonic, WallClock
from portway_runtime.rates import Turns

from portway_relay.config import NodeConfig
from portway_relay.errors import Refused
from portway_relay.raw_ports.region_addresses import RegionAddresses
from portway_relay.raw_ports.tickets import Tickets
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import Tunnel
from portway_relay.sessions.grants import Grant, GrantCheck
from portway_relay.sessions.session import PublicAddress, Session, TunnelMoved

logger = logging.getLogger(__name__)

# Of the time a node waits before it cuts what is left: clients have attached elsewhere in the rest of it.
_LEAVING_SHARE: Final = 0.4


class Sessions:
    """The sessions by id; the Admission of the greeter, the owner of each session."""

    def __init__(
        self,
        config: NodeConfig,
        carrier: Carrier,
        grants: GrantCheck,
        table: TunnelTable,
        tickets: Tickets,
        addresses: RegionAddresses,
        address: Callable[[], PublicAddress],
        moved: TunnelMoved,
        *,
        clock: Monotonic,
        wall_clock: WallClock,
    ) -> None:
        """`address` is asked at each HELLO: the port is known once the node listens. `moved` is told where clients that
        leave say that their tunnels are."""
        self._config = config
        self._carrier = carrier
        self._grants = grants
        self._table = table
        self._tickets = tickets
        self._addresses = addresses
        self._address = address
        self._moved = moved
        self._clock = clock
        self._wall_clock = wall_clock
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[bytes, Session] = {}
        self._away: dict[Session, asyncio.TimerHandle] = {}
        self._finishing: dict[Tunnel, asyncio.TimerHandle] = {}
        limits = config.limits
        self._turns = Turns(limits.sessions_per_second, limits.session_burst, clock)
        self.postponed = 0  # sessions that were told to come later
        self._refusing = ""  # why new clients are refused; empty while they are welcome
        self._leaving = False
        self._closing = False
        self._none_here = asyncio.Event()
        self._none_here.set()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def away(self) -> int:
        """Sessions without a control lane that may still be resumed."""
        return len(self._away)

    # The greeter's Admission.

    def hello(self, lane: Lane, hello: Hello) -> Session:
        """The session that this control lane is of: the one it names, or a new one. Raises Refused."""
        grant = self._grants.verify(hello.grant)
        session = self._find(hello.session_id, hello.session_secret)
        resumed = session is not None and session.token_id == grant.token_id
        if self._refusing and (self._leaving or not resumed):
            raise Refused(FAILURE_CODE_SHUTDOWN, self._refusing)
        if session is None or not resumed:
            session = self._new(grant)
        self._back(session)
        session.grant = grant
        session.attach(lane)
        welcome = Welcome(
            session_id=session.id,
            session_secret=session.secret,
            resumed=resumed,
            node_time_ms=int(self._wall_clock() * 1000),
            node=self._config.name,
            region=self._config.region,
            resume_seconds=int(self._config.limits.resume_time),
            max_lanes=self._config.limits.max_lanes,
        )
        lane.send(FrameType.WELCOME, welcome.SerializeToString())
        session.wake()
        logger.info("client attached", extra={"peer": lane.peer.host, "tenant": grant.tenant, "resumed": resumed})
        return session

    def park(self, lane: Lane, park: Park) -> None:
        """Give the lane to its session's pool. Raises Refused."""
        session = self._find(park.session_id, park.session_secret)
        if session is None:
            raise Refused(FAILURE_CODE_SESSION, "this node does not know the session (any more): begin a new one")
        counts = session.pool.counts
        if counts.idle + counts.busy >= self._config.limits.max_lanes:
            raise Refused(FAILURE_CODE_OVERLOADED, "the session has as many lanes as this node gives to one")
        session.pool.park(lane)

    # The owner of each session.

    def control_lost(self, session: Session) -> None:
        if not self._closing:
            self._away[session] = self._loop.call_later(self._config.limits.resume_time, self._give_up, session)
            self._count()

    def session_left(self, session: Session) -> None:
        self._forget(session)

    def tunnel_left(self, tunnel: Tunnel) -> None:
        if tunnel.visits:
            limits = self._config.limits
            grace = limits.drain_grace if self._leaving else limits.leave_grace
            self._finishing[tunnel] = self._loop.call_later(grace, self._cut, tunnel)

    # What the rest of the node asks.

    def revoke(self, token_ids: Iterable[str]) -> None:
        """End every session of these tokens now, visits included."""
        revoked = set(token_ids)
        failure = Failure(code=FAILURE_CODE_REVOKED, message="the API token was revoked: ask for a new one")
        for session in [one for one in self._sessions.values() if one.token_id in revoked]:
            logger.info("session ended: its token is revoked", extra={"token": session.token_id})
            self._forget(session)
            session.end(failure, closed=True)
            session.pool.close()

    def accept_new(self) -> None:
        """New clients may come."""
        self._refusing, self._leaving = "", False

    def refuse_new(self) -> None:
        """No new clients; those that are here stay, and may resume."""
        self._refusing, self._leaving = "this node takes no new clients: attach to another one", False

    def ask_to_leave(self, why: str) -> None:
        """No new clients, and those that are here are asked to attach elsewhere."""
        self._refusing, self._leaving = f"{why}: attach to another one", True
        # As fast as another node takes them, and in time for the last ones to have left.
        limits = self._config.limits
        pace = min(1 / limits.sessions_per_second, limits.stop_grace * _LEAVING_SHARE / max(1, len(self._sessions)))
        for number, session in enumerate(self._sessions.values()):
            moment = max(0, number - limits.session_burst) * pace
            session.goaway(Refused(FAILURE_CODE_SHUTDOWN, self._refusing, retry_after=moment).failure)

    async def over(self) -> None:
        """Wait until no client is here; one that is away comes back to another node. Its visits are not waited for."""
        await self._none_here.wait()

    def close(self) -> None:
        """End every session, visits included."""
        self._closing = self._leaving = True
        self._refusing = "this node has stopped: attach to another one"
        failure = Failure(code=FAILURE_CODE_SHUTDOWN, message="this node has stopped: attach to another one")
        for session in list(self._sessions.values()):
            self._forget(session)
            session.end(failure, closed=False)
            session.pool.close()
        for timer in self._finishing.values():
            timer.cancel()
        self._finishing.clear()

    def _find(self, session_id: bytes, secret: bytes) -> Session | None:
        """A wrong secret is answered like an unknown session."""
        session = self._sessions.get(session_id)
        return session if session is not None and hmac.compare_digest(session.secret, secret) else None

    def _new(self, grant: Grant) -> Session:
        limits = self._config.limits
        if len(self._sessions) >= limits.max_sessions:
            raise Refused(FAILURE_CODE_OVERLOADED, "this node has as many clients as it takes: attach to another one")
        turn = self._turns.take()
        if turn:
            self.postponed += 1
            raise Refused(
                FAILURE_CODE_OVERLOADED,
                f"too many clients came to this node at once: try again in {turn:.1f} s, or at another one",
                retry_after=turn,
            )
        session = Session(
            grant,
            self._carrier.pool(None, PoolLimits(lanes=limits.max_lanes, wait=limits.lane_wait)),
            self,
            self._table,
            self._tickets,
            self._addresses,
            self._address(),
            moved=self._moved,
            bind_turns=Turns(limits.binds_per_second, limits.bind_burst, self._clock),
            max_tunnels=limits.max_tunnels_per_session,
        )
        self._sessions[session.id] = session
        self._count()
        return session

    def _back(self, session: Session) -> None:
        timer = self._away.pop(session, None)
        if timer is not None:
            timer.cancel()
            self._count()

    def _forget(self, session: Session) -> None:
        self._back(session)
        self._sessions.pop(session.id, None)
        self._count()

    def _count(self) -> None:
        if len(self._sessions) > len(self._away):
            self._none_here.clear()
        else:
            self._none_here.set()

    def _give_up(self, session: Session) -> None:
        """Away for too long."""
        logger.info("session ended: its client did not come back", extra={"tunnels": len(session.tunnels)})
        self._forget(session)
        session.end(None, closed=True)
        session.pool.close()

    def _cut(self, tunnel: Tunnel) -> None:
        self._finishing.pop(tunnel, None)
        tunnel.cut_visits()
