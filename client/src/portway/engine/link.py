"""A link: one session that is kept up, across connections and nodes, for all tunnels with the same settings.

It attaches when the first tunnel is opened, attaches again by itself whenever the connection drops, and binds the
tunnels again under the same labels. It lingers when the last tunnel is closed, so that the next one opens in one
round trip. What no further attempt can mend ends its tunnels.

Not here: finding a node (attach.py), the control lane (session.py), held (bindings.py), data lanes (lanes.py).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from portway_carrier.contract import Carrier
from portway_runtime.tasks import Tasks

from portway.engine.data_lanes import DataLanes
from portway.engine.dialogue import SessionKey, Welcomed
from portway.engine.directory import Directory
from portway.engine.failures import Failure
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.race_rule import RACERS
from portway.engine.reporter import Reporter
from portway.engine.retry import LONGEST_STAY, pauses, spread
from portway.engine.search import Attached, Refused, Resumption, Search
from portway.engine.session import BindRefused, End, Session, SessionOver
from portway.engine.tunnel_set import TunnelSet
from portway.errors import Attempt, AuthError, Error, UnreachableError

logger = logging.getLogger(__name__)

# A session that had all tunnels and lasted so long worked: its loss is met with an immediate try again, however many
# nodes die in a row. Only one that is lost as soon as it is there is tried again with growing pauses.
STEADY: Final = 1.0
# As long as the node would let the session be resumed: opening the next tunnel within it is one round trip.
LINGER: Final = 60.0
# Nothing is decided by clocks, and certificates and grants allow for more than this; but somebody should know.
CLOCKS_APART: Final = 300.0


class Link:
    """All its methods are called on the engine's loop."""

    def __init__(
        self,
        carrier: Carrier,
        directory: Directory,
        tasks: Tasks,
        clock: Callable[[], float] = time.monotonic,
        linger: float = LINGER,
        racers: int = RACERS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`clock` and `sleep` are what its pauses go by."""
        self._directory = directory
        self._tasks = tasks
        self._clock = clock
        self._sleep = sleep
        self._linger = linger
        self._search = Search(carrier, directory, self, clock, racers, Reporter(directory, tasks).tell)
        self._tunnels = TunnelSet(tasks, self._unused, clock)
        self._lanes = DataLanes(carrier, self._tunnels.table, self._session_unknown)
        self._session: Session | None = None
        self._leaving: Session | None = None  # of a node that asked to be left, until the next one has the tunnels
        self._resumption: tuple[Resumption, float] | None = None  # and until when
        self._keeper: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._hurry = asyncio.Event()  # somebody waits for a session
        self._expiry: asyncio.TimerHandle | None = None
        self._clock_told = False
        self.trouble = ""  # why it is not attached, for people

    @property
    def attached(self) -> bool:
        return self._session is not None and self._session.up

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Whom the last attempt to attach has tried, and why each did not do."""
        return self._search.attempts

    async def bind(self, held: HeldTunnel) -> None:
        """Open a tunnel; one round trip when the session is up. Raises Error. Cancelled, it leaves nothing behind."""
        self._tunnels.add(held)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        try:
            while held.tunnel is None:
                session = await self._attached_session()
                try:
                    await self._tunnels.bind(session, held)
                except SessionOver:
                    continue  # the keeper attaches again
                except BindRefused as refused:
                    if not refused.failure.retry_after:
                        raise refused.failure.error() from None
                    held.postponed = refused.failure.error()
                    await self._sleep(spread(refused.failure.retry_after))
                    held.postponed = None
        except BaseException:
            self.release(held)
            raise

    def release(self, held: HeldTunnel) -> None:
        """Close a tunnel; does nothing for one that is not open here."""
        if self._tunnels.withdraw(held):
            for session in (self._session, self._leaving):
                if session is not None:
                    session.unbind(held.label)
        if self.attached:
            self._tunnels.forget_withdrawn()

    async def close(self) -> None:
        """Withdraw every tunnel and let go of everything."""
        if self._expiry is not None:
            self._expiry.cancel()
        session = self._session
        self._stop_keeping()
        if session is not None and session.up:
            session.leave()
            for _ in range(3):  # a transport writes when its turn of the loop comes; then the carrier may be closed
                await asyncio.sleep(0)
        self._lanes.close()

    def lose_all(self, error: Error) -> None:
        """Every tunnel is lost for good, and who waits for one is told."""
        self._tunnels.lose_all(error)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(error)

    # What a session and its lanes tell.

    def tunnel_unbound(self, session: Session, label: str, failure: Failure) -> None:
        if not self._tunnels.unbound(session, label, failure) or session is not self._session:
            return  # what a node lets go of that is being left, the next one binds
        self._tasks.spawn(self._bind_missing(session), name="bind again")

    def lanes_wanted(self, session: Session, lanes: int) -> None:
        if session is self._session or (self._session is None and session is self._leaving):
            self._lanes.want(lanes)

    def _session_unknown(self, key: SessionKey, failure: Failure) -> None:
        """The node forgot the session but not its control lane: HELLO anew."""
        session = self._session
        if session is not None and session.up and session.key == key:
            session.drop(End(failure.text, failure))

    # Keeping attached.

    async def _attached_session(self) -> Session:
        while self._session is None or not self._session.up:
            if self._keeper is None:
                self._keeper = self._tasks.spawn(self._keep(), name="keep a session")
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            self._hurry.set()
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)
        return self._session

    async def _keep(self) -> None:
        """From the first attachment until no tunnel needs it, or none can be kept."""
        try:
            attached = await self._attach_first()
            renewing = self._tasks.spawn(self._directory.keep_renewed(), name="renew grants")
            try:
                await self._stay_attached(attached)
            finally:
                renewing.cancel()
        except Refused as refused:
            self._give_up(refused.failure.error())
        except Error as error:
            self._give_up(error)
        finally:
            if self._keeper is asyncio.current_task():
                self._keeper = None

    async def _attach_first(self) -> Attached:
        """While the only nodes there are say when to come again, that is waited for: callers have a time limit."""
        while True:
            try:
                return await self._search.attach(self._resumable())
            except UnreachableError:
                wait = self._search.asked_to_wait
                if not wait:
                    raise
                await self._sleep(wait)

    def _give_up(self, error: Error) -> None:
        self.lose_all(error)
        self._leave_old()
        self._lanes.retire()

    async def _stay_attached(self, attached: Attached) -> None:
        tries = pauses()
        next(tries)  # not at once, for a session that is lost as soon as it is there
        while True:
            since = self._clock()
            await self._take_up(attached)
            end = await attached.session.over()
            worked = self._clock() - since >= STEADY and not self._tunnels.missing_on(attached.session)
            self._let_go(attached, end)
            if not self._tunnels:
                self._leave_old()  # nobody needs the next node, and this one waits to be left
                self._lanes.retire()
                return
            if end.failure is not None and end.failure.for_good:
                raise end.failure.error()
            if worked:
                tries = pauses()
            attached = await self._attach_again(attached, end, tries)

    async def _take_up(self, attached: Attached) -> None:
        """The session is up: bind on it what is open, let who waits go on, dial its lanes."""
        session = attached.session
        self._session, self._resumption, self.trouble = session, None, ""
        self._compare_clocks(attached.welcomed)
        self._tunnels.withdraw_again(session, resumed=attached.welcomed.resumed)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        async with asyncio.TaskGroup() as binds:
            for held in self._tunnels.missing_on(session):
                binds.create_task(self._bring(attached, held))
            # After the BINDs, which go out first; a handshake each must not hold them up.
            located = self._directory.located
            if located is not None:
                self._lanes.follow(attached.node, located.cluster_ca, attached.welcomed)
        if session.up:
            self._leave_old()
        if not self._tunnels:
            self._unused()

    async def _bring(self, attached: Attached, held: HeldTunnel) -> None:
        """Bind a tunnel at its next node, and tell the one that is being left: visitors still come there."""
        session = attached.session
        await self._tunnels.bind_again(session, held)
        if self._leaving is not None and held.held_by(session.key):
            self._leaving.moved(held.label, attached.node.name, *held.latest)

    def _let_go(self, attached: Attached, end: End) -> None:
        self._session, self.trouble = None, end.reason
        self._tunnels.forget_withdrawn()
        self._resumption = None
        if end.leaving:
            self._leave_old()
            self._leaving = attached.session
        elif not (end.failure is not None and end.failure.session_unknown):
            until = self._clock() + attached.welcomed.resume_seconds
            self._resumption = (Resumption(attached.node.name, attached.welcomed.key, end.silent), until)

    async def _bind_missing(self, session: Session) -> None:
        for held in self._tunnels.missing_on(session):
            await self._tunnels.bind_again(session, held)

    async def _attach_again(self, left: Attached, end: End, tries: Iterator[float]) -> Attached:
        """Until there is a session again. Raises Refused and AuthError: no further attempt can help."""
        began = self._clock()
        what = "asks to be left" if end.leaving else "is lost"
        logger.warning(
            "node %s %s (%s): attaching again, %d tunnels", left.node.name, what, end.reason, len(self._tunnels)
        )
        avoided = left.node if end.leaving else None
        told = ""
        if end.leaving and end.failure is not None:
            await self._stay(left.session, min(end.failure.retry_after, LONGEST_STAY))
        for pause in tries:
            await self._sleep(max(pause, self._search.asked_to_wait))
            try:
                home = left.node if self._tunnels.opened else None
                attached = await self._search.attach(self._resumable(), avoided, home)
            except AuthError:
                raise
            except Error as error:
                self.trouble = str(error)
                logger.log(logging.DEBUG if self.trouble == told else logging.WARNING, "not attached yet: %s", error)
                told = self.trouble
                avoided = None  # better the node that leaves than none
            else:
                logger.info("attached to node %s after %.1f s", attached.node.name, self._clock() - began)
                return attached
        raise AssertionError("pauses have no end")

    async def _stay(self, session: Session, seconds: float) -> None:
        """With a node that asks to be left, until the moment it named: not once it is gone, nor while somebody wants a
        new tunnel."""
        self._hurry.clear()
        if not seconds or self._waiting:
            return
        reasons = [self._tasks.spawn(wait, name="stay") for wait in (session.closed(), self._hurry.wait())]
        try:
            await asyncio.wait(reasons, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for reason in reasons:
                reason.cancel()

    def _resumable(self) -> Resumption | None:
        if self._resumption is None or self._clock() >= self._resumption[1]:
            return None
        return self._resumption[0]

    def _compare_clocks(self, welcomed: Welcomed) -> None:
        ahead = time.time() - welcomed.node_time
        if welcomed.node_time and abs(ahead) > CLOCKS_APART and not self._clock_told:
            self._clock_told = True
            way = "ahead of" if ahead > 0 else "behind"
            logger.warning("this clock is %.0f s %s that of node %s: set it right", abs(ahead), way, welcomed.node)

    # The end of things.

    def _unused(self) -> None:
        """Nobody needs it: linger while attached, stop trying otherwise."""
        if self.attached:
            if self._expiry is None:
                self._expiry = asyncio.get_running_loop().call_later(self._linger, self._expire)
        elif self._keeper is not asyncio.current_task():
            self._stop_keeping()
            self._lanes.retire()

    def _expire(self) -> None:
        self._expiry = None
        session = self._session
        self._stop_keeping()
        if session is not None:
            session.leave()
        self._lanes.retire()

    def _stop_keeping(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        self._leave_old()
        self._session = None

    def _leave_old(self) -> None:
        if self._leaving is not None:
            self._leaving.leave()
            self._leaving = None
