"""All sessions of a node: HELLO and PARK, resuming, revocation, draining.

Here: which clients are admitted, how long a lost session is kept, how all of them end. Not here: what a session
requests (session.py), link lanes before their first frame (greeter.py).
"""

import asyncio
import hmac
import logging
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from portway_carrier.contract import Carrier, Lane
from portway_carrier.values import PoolLimits
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_GRANT,
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
from portway_proto.wire.statements import signed_greeting
from portway_runtime.clocks import WallClock
from portway_runtime.rates import Turns

from portway_relay.config import NodeConfig
from portway_relay.errors import Refused
from portway_relay.routing.tunnel import Tunnel
from portway_relay.sessions.frame_budgets import FrameBudgets
from portway_relay.sessions.grants import Grant, GrantVerifier, refused
from portway_relay.sessions.session import Session
from portway_relay.sessions.session_tunnels import SessionContext
from portway_relay.sessions.token_lanes import TokenLanes
from portway_relay.sessions.token_sessions import TokenSessions

logger = logging.getLogger(__name__)

# Clients are asked to leave within this share of `stop_grace`, so that the last ones have the rest of it to attach
# elsewhere.
_LEAVING_SHARE: Final = 0.4
# Seconds between looks at all sessions for those whose grant was not renewed.
_LOOKED_AT_EVERY: Final = 60.0
_UNRENEWED: Final = "the grant was not renewed for 24 hours after its end: get a fresh one from the registry"
_STOPPED: Final = "this node has stopped: attach to another one"


class Sessions:
    """The sessions by id. The Admission of the greeter and the SessionOwner of each session."""

    def __init__(
        self,
        config: NodeConfig,
        carrier: Carrier,
        grants: GrantVerifier,
        context: SessionContext,
        certificates: Callable[[], Iterable[bytes]],
        *,
        wall_clock: WallClock,
        is_memory_scarce: Callable[[], bool],
    ) -> None:
        """
        certificates: the node's own one (DER), and the one before.
        wall_clock: is sent to clients in WELCOME.
        is_memory_scarce: while it is no new client is taken.

        Needs a running loop.
        """
        self._certificates = certificates
        self._config = config
        self._carrier = carrier
        self._grants = grants
        self._context = context
        self._wall_clock = wall_clock
        self._is_memory_scarce = is_memory_scarce
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[bytes, Session] = {}
        self._away: dict[Session, asyncio.TimerHandle] = {}
        self._finishing: dict[Tunnel, asyncio.TimerHandle] = {}
        limits = config.limits
        self._by_token = TokenSessions(limits.max_sessions_per_token)
        self._lanes = TokenLanes(limits.max_lanes_per_token, context.clock, self._by_token.lanes)
        self._budgets = FrameBudgets(limits, context.clock)
        self._turns = Turns(limits.sessions_per_second, limits.session_burst, context.clock)
        self.postponed = 0  # new clients that were given a later turn
        self._refusing = ""  # why new clients are refused; empty while they are accepted
        self._leaving = False  # whether clients are asked to attach elsewhere
        self._closing = False
        self._no_client = asyncio.Event()
        self._no_client.set()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def tokens(self) -> Iterable[str]:
        """The tokens of its sessions, those included whose clients are away, or have left with visits in progress."""
        return self._by_token.tokens

    def untold(self, authorities: Iterable[str]) -> int:
        """Sessions whose newest grant does not say that the client was told of all these CAs."""
        wanted = frozenset(authorities)
        return sum(not wanted <= session.told for session in self._sessions.values())

    @property
    def away(self) -> int:
        """Sessions without a control lane that may still be resumed."""
        return len(self._away)

    # The Admission.

    async def hello(self, lane: Lane, hello: Hello) -> Session:
        """Attach a control lane to the session that it names, or to a new one. Raises Refused. Cancelled, it changes
        nothing."""
        await self._demand_genuine(self._grants.read(hello.grant), hello.signature)
        grant = self._grants.read(hello.grant)  # again: the token may have been revoked meanwhile
        session = self._find(hello.session_id, hello.session_secret)
        resumed = session is not None and (session.token_id, session.session_key) == (grant.token_id, grant.session_key)
        if self._refusing and (self._leaving or not resumed):
            raise Refused(FAILURE_CODE_SHUTDOWN, self._refusing)
        if session is None or not resumed:
            session = self._new(grant)
        self._stop_waiting(session)
        lane.charge_to(self._budgets.control_lane(grant.token_id))
        session.attach(lane, grant)
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
        session.resume()
        logger.info("client attached", extra={"peer": lane.peer.host, "tenant": grant.tenant, "resumed": resumed})
        return session

    def park(self, lane: Lane, park: Park) -> None:
        """Give a data lane to its session's pool. Raises Refused."""
        session = self._find(park.session_id, park.session_secret)
        if session is None:
            raise Refused(FAILURE_CODE_SESSION, "this node does not know the session (any more): begin a new one")
        counts = session.pool.counts
        if counts.idle + counts.busy >= self._config.limits.max_lanes:
            raise Refused(FAILURE_CODE_OVERLOADED, "the session has as many lanes as this node gives to one")
        if not self._lanes.take(session.token_id):
            raise Refused(FAILURE_CODE_OVERLOADED, "this API token has as many lanes as this node gives to one")
        lane.charge_to(self._budgets.data_lane())
        session.pool.park(lane)

    # The SessionOwner.

    def control_lost(self, session: Session) -> None:
        if not self._closing:
            self._away[session] = self._loop.call_later(self._config.limits.resume_time, self._expire, session)
            self._by_token.set_away(session)
            self._update_no_client()

    def session_left(self, session: Session) -> None:
        self._forget(session)
        self._by_token.set_left(session)

    def tunnel_released(self, tunnel: Tunnel) -> None:
        if tunnel.visits:
            limits = self._config.limits
            grace = limits.drain_grace if self._leaving else limits.leave_grace
            self._finishing[tunnel] = self._loop.call_later(grace, self._cut, tunnel)

    # Orders.

    def revoke(self, token_ids: Iterable[str]) -> None:
        """End every session of these tokens now, and cut their visits."""
        revoked = set(token_ids)
        failure = Failure(code=FAILURE_CODE_REVOKED, message="the API token was revoked: ask for a new one")
        for session in [one for one in self._sessions.values() if one.token_id in revoked]:
            logger.info("session ended: its token is revoked", extra={"token": session.token_id})
            self._end(session, failure, closed=True)
        for session in self._by_token.left():
            if session.token_id in revoked:
                self._cut_left(session)

    def end_unrenewed(self) -> None:
        """End the sessions whose grant has been over for OUTAGE_LEEWAY, and the visits of those that were left: this
        node may not have heard that their tokens are revoked."""
        failure = Failure(code=FAILURE_CODE_GRANT, message=_UNRENEWED)
        for session in [one for one in self._sessions.values() if one.unrenewed]:
            logger.warning("session ended: its grant was not renewed", extra={"token": session.token_id})
            self._end(session, failure, closed=False)
        self._by_token.forget_idle()
        for session in self._by_token.left():
            if session.unrenewed:
                self._cut_left(session)

    async def keep_ending_unrenewed(self) -> NoReturn:
        """`end_unrenewed` once a minute, for ever."""
        while True:
            await asyncio.sleep(_LOOKED_AT_EVERY)
            self.end_unrenewed()

    def accept_new(self) -> None:
        """Accept new clients (again)."""
        self._refusing, self._leaving = "", False

    def refuse_new(self) -> None:
        """Refuse new clients. The sessions that are here stay, and can be resumed."""
        self._refusing, self._leaving = "this node takes no new clients: attach to another one", False

    def ask_to_leave(self, reason: str) -> None:
        """Refuse new clients, and ask those that are here to attach elsewhere.

        After `session_burst` of them the others are given turns, at the rate at which another node accepts sessions,
        or faster where the last ones would not have left in time.
        """
        self._refusing, self._leaving = f"{reason}: attach to another one", True
        limits = self._config.limits
        interval = min(1 / limits.sessions_per_second, limits.stop_grace * _LEAVING_SHARE / max(1, len(self._sessions)))
        for number, session in enumerate(self._sessions.values()):
            turn = max(0, number - limits.session_burst) * interval
            session.ask_to_leave(Refused(FAILURE_CODE_SHUTDOWN, self._refusing, retry_after=turn).failure)

    async def over(self) -> None:
        """Wait until no client is attached. Sessions without a control lane do not count, as their clients attach to
        another node; nor do visits."""
        await self._no_client.wait()

    def close(self) -> None:
        """End every session now, and cut all visits."""
        self._closing = self._leaving = True
        self._refusing = _STOPPED
        failure = Failure(code=FAILURE_CODE_SHUTDOWN, message=_STOPPED)
        for session in list(self._sessions.values()):
            self._end(session, failure, closed=False)
        for session in self._by_token.left():
            self._cut_left(session)
        for timer in self._finishing.values():
            timer.cancel()
        self._finishing.clear()

    async def _demand_genuine(self, grant: Grant, signature: bytes) -> None:
        """Raise GrantRefused unless a registry has signed the grant, and its holder the greeting to this node, for a
        certificate that the node has or had before."""
        checks, name = self._context.checks, self._config.name
        if not await checks.check(grant.signed):
            raise refused("its signature is invalid")
        for certificate in self._certificates():
            if await checks.check(signed_greeting(grant.session_key, checks.cluster, name, certificate, signature)):
                return
        raise refused("HELLO is not signed with its session key for this node")

    def _find(self, session_id: bytes, secret: bytes) -> Session | None:
        """The session; None when it is unknown or the secret is wrong, which look alike from outside."""
        session = self._sessions.get(session_id)
        return session if session is not None and hmac.compare_digest(session.secret, secret) else None

    def _new(self, grant: Grant) -> Session:
        """A new session, in place of one of the token's that is away when it may have no more. Raises Refused."""
        limits = self._config.limits
        replaced: Session | None = None
        if self._by_token.is_full(grant):
            replaced = self._by_token.longest_away(grant.token_id)
            if replaced is None:
                raise Refused(
                    FAILURE_CODE_OVERLOADED,
                    "this API token has as many clients at this node as it may have: close one, or use another token",
                )
        elif len(self._sessions) >= limits.max_sessions:
            raise Refused(FAILURE_CODE_OVERLOADED, "this node has as many clients as it takes: attach to another one")
        if self._is_memory_scarce():
            raise Refused(FAILURE_CODE_OVERLOADED, "this node is short of memory: attach to another one")
        turn = self._turns.take()
        if turn:
            self.postponed += 1
            raise Refused(
                FAILURE_CODE_OVERLOADED,
                f"too many clients came to this node at once: try again in {turn:.1f} s, or at another one",
                retry_after=turn,
            )
        if replaced is not None:
            self._expire(replaced)
        pool = self._carrier.pool(None, PoolLimits(lanes=limits.max_lanes, wait=limits.lane_wait))
        session = Session(grant, pool, self, self._context)
        self._sessions[session.id] = session
        self._by_token.add(session)
        self._update_no_client()
        return session

    def _stop_waiting(self, session: Session) -> None:
        """Cancel the timer of a session without a control lane."""
        self._by_token.set_back(session)
        timer = self._away.pop(session, None)
        if timer is not None:
            timer.cancel()
            self._update_no_client()

    def _forget(self, session: Session) -> None:
        self._stop_waiting(session)
        self._sessions.pop(session.id, None)
        self._by_token.discard(session)
        self._update_no_client()

    def _update_no_client(self) -> None:
        if len(self._sessions) > len(self._away):
            self._no_client.clear()
        else:
            self._no_client.set()

    def _expire(self, session: Session) -> None:
        logger.info("session ended: its client did not come back", extra={"tunnels": len(session.tunnels)})
        self._end(session, None, closed=True)

    def _end(self, session: Session, failure: Failure | None, *, closed: bool) -> None:
        self._forget(session)
        session.end(failure, closed=closed)
        session.pool.close()

    def _cut_left(self, session: Session) -> None:
        """Cut the visits that go on after their client has left."""
        logger.info("visits of a client that has left are cut", extra={"token": session.token_id})
        self._by_token.discard(session)
        session.pool.close()

    def _cut(self, tunnel: Tunnel) -> None:
        self._finishing.pop(tunnel, None)
        tunnel.cut_visits()
