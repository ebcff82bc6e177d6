"""Link: one session that is kept up, across connections and nodes, for all tunnels with the same settings.

It attaches when the first tunnel is opened, attaches again whenever the connection is lost, and binds the tunnels again
under the same labels. After the last tunnel is closed it lingers, so that the next one opens in one round trip. A loss
that attaching again cannot restore ends its tunnels.

Not here: finding a node (search.py), for the first time (first_attachment.py) and a nearer one (returns.py), the
control lane (session.py), sending BIND (tunnel_set.py) and PRESENCE (presences.py), whether a refusal is final
(second_opinions.py), data lanes (data_lanes.py).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from portway_carrier.contract import Carrier
from portway_proto.v1.lane_pb2 import FailureCode
from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.tasks import Tasks, fail

from portway.engine.clock_warning import ClockWarning
from portway.engine.data_lanes import DataLanes
from portway.engine.departures import Departures
from portway.engine.dialogue import SessionCredentials
from portway.engine.directory import Directory, Node
from portway.engine.failures import Failure, pauses, spread_hint
from portway.engine.first_attachment import FirstAttachment
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.presences import Presences
from portway.engine.race_rule import RACERS
from portway.engine.reporter import Reporter
from portway.engine.return_rule import ReturnRule
from portway.engine.returns import Returns
from portway.engine.search import Attachment, Refused, Resumption, Search
from portway.engine.second_opinions import SecondOpinions
from portway.engine.session import BindRefused, End, Session, SessionOver
from portway.engine.signer import Signer
from portway.engine.tunnel_set import TunnelSet
from portway.errors import Attempt, AuthError, Error, UnreachableError

logger = logging.getLogger(__name__)

# Seconds. A session that had all tunnels and lasted this long was sound: after its loss the first try is immediate,
# however many nodes die in a row. Only sessions that are lost sooner are followed by growing pauses.
SOUND_AFTER: Final = 1.0
# Seconds. A node lets a session be resumed for as long; a tunnel opened within it takes one round trip.
LINGER: Final = 60.0
# Seconds. A node that stops gives its clients twice this by default before it closes their connections.
LONGEST_STAY: Final = 5.0
# Ends a session that must not be resumed.
_NEW_SESSION: Final = Failure(FailureCode.FAILURE_CODE_SESSION, "begin a new session")


class Link:
    """Used on the engine's loop. Receives its sessions' events (SessionEvents), owns its tunnels (TunnelOwner) and goes
    to nearer nodes (ReturnOwner)."""

    def __init__(
        self,
        carrier: Carrier,
        directory: Directory,
        signer: Signer,
        tasks: Tasks,
        clock: Monotonic = monotonic,
        linger: float = LINGER,
        racers: int = RACERS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        returning: ReturnRule | None = None,
    ) -> None:
        """`signer` is the directory's; `clock` and `sleep` time the pauses between tries; `linger` is in seconds;
        without `returning` it stays where it is."""
        self._directory = directory
        self._signer = signer
        self._tasks = tasks
        self._clock = clock
        self._linger = linger
        self._sleep = sleep
        self._session: Session | None = None
        self._departures = Departures()
        self._resumption: tuple[Resumption, float] | None = None  # and the time until which it holds
        self._keeper: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Future[None]] = set()  # tunnels being opened wait in these for a session
        self._session_wanted = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None
        self._clock_warning = ClockWarning()
        self.trouble = ""  # why it is not attached, for people
        reporter = Reporter(directory, tasks)
        self._search = Search(carrier, directory, signer, clock, racers, reporter.tell)
        self._first = FirstAttachment(self._search, sleep)
        self._returns = Returns(carrier, directory, self._search, reporter, self, returning)
        self._presences = Presences(directory, signer)
        self._opinions = SecondOpinions(directory, tasks, clock)
        self._tunnels = TunnelSet(tasks, self, signer, self._presences, clock)
        self._lanes = DataLanes(carrier, self._tunnels.table)
        directory.on_cluster_ca.append(self._lanes.trust)

    @property
    def attached(self) -> bool:
        return self._session is not None and self._session.up

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The nodes and registries that were tried last, and why each was not used."""
        return self._first.attempts

    @property
    def failure(self) -> UnreachableError | None:
        """Why there is no session yet: the last search that failed, while the first session is searched for."""
        return self._first.failure

    async def bind(self, held: HeldTunnel) -> None:
        """Open a tunnel; one round trip if the session is up. Raises Error. Cancelled, it leaves nothing behind."""
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
                    await self._before_next_try(session, held, refused.failure)
        except BaseException:
            self.release(held)
            raise

    async def _before_next_try(self, session: Session, held: HeldTunnel, failure: Failure) -> None:
        """Wait until binding a tunnel that was never open may be tried again. Raises Error if it may not."""
        if failure.passing and failure.retry_after:
            held.postponed = failure.error()
            await self._sleep(spread_hint(failure.retry_after))
            held.postponed = None
        elif failure.passing or not await self.refused(session, held, failure):
            raise failure.error() from None

    def release(self, held: HeldTunnel) -> None:
        """Close a tunnel; does nothing if it is not open here."""
        if self._tunnels.withdraw(held):
            self._departures.unbind(held.label)
            if self._session is not None:
                self._session.unbind(held.label)
        if self.attached:
            self._tunnels.forget_withdrawn()

    async def close(self) -> None:
        """Close every tunnel and every connection."""
        if self._expiry is not None:
            self._expiry.cancel()
        session = self._session
        self._stop_keeping()
        if session is not None and session.up:
            session.leave()
            for _ in range(3):  # transports write in a later loop iteration, and the carrier is closed next
                await asyncio.sleep(0)
        self._lanes.close()

    def lose_all(self, error: Error) -> None:
        """Every open tunnel is lost for good; opening one raises `error`."""
        self._tunnels.lose_all(error)
        for waiting in self._waiting:
            fail(waiting, error)

    def tunnel_unbound(self, session: Session, label: str, failure: Failure, claim: bytes) -> None:
        """SessionEvents: it is bound again, or lost."""
        self._tasks.spawn(self._tunnels.unbound(session, label, failure, claim), name="bind again")

    def lanes_wanted(self, session: Session, lanes: int) -> None:
        """SessionEvents: the lanes follow the current session, or the one being left until there is a next."""
        if session is self._session or (self._session is None and session is self._departures.latest):
            self._lanes.want(lanes)

    async def refused(self, session: Session, held: HeldTunnel, failure: Failure) -> bool:
        """TunnelOwner: ask a registry, then leave the session's node for another one."""
        if not await self._opinions.another_may_differ(held.label, session.node, failure):
            return False
        if session is self._session:
            session.leave_for_another(f"it refuses a tunnel: {failure.text}")
        return True

    def may_go_to(self, node: Node) -> bool:
        """ReturnOwner: with open tunnels, all of which keep the raw ports that they have now."""
        return self._tunnels.any_open and self._tunnels.keep_ports_at(node)

    async def out_of_time(self, session: Session) -> None:
        """TunnelOwner: Locate. If the session's presences were signed far ahead, begin anew with another key."""
        await self._opinions.ask_registry()
        if self._signer.spent:
            self._signer.change_key()
            # In the same step: what the new key signs would be a forgery on this session.
            session.drop(End("its session key was used with a wrong time", _NEW_SESSION))
            await self._opinions.ask_registry()  # for a grant of the new key

    def emptied(self) -> None:
        """TunnelOwner: no tunnel needs the session. Linger while attached, otherwise stop trying."""
        if self.attached:
            if self._expiry is None:
                self._expiry = asyncio.get_running_loop().call_later(self._linger, self._expire)
        elif self._keeper is not asyncio.current_task():
            self._stop_keeping()
            self._lanes.retire()

    def _session_unknown(self, credentials: SessionCredentials, failure: Failure) -> None:
        """The node forgot the session but not its control lane: begin a new session."""
        session = self._session
        if session is not None and session.up and session.credentials == credentials:
            session.drop(End(failure.text, failure))

    async def _attached_session(self) -> Session:
        while self._session is None or not self._session.up:
            if self._keeper is None:
                self._keeper = self._tasks.spawn(self._keep(), name="keep a session")
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            self._session_wanted.set()
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)
        return self._session

    async def _keep(self) -> None:
        """Keep a session, from the first attachment until no tunnel needs it, or none can be kept."""
        try:
            attachment = await self._first.attach(self, self._resumable, lambda: int(self._tunnels.all_new))
            renewing = (
                self._tasks.spawn(self._directory.keep_renewed(), name="renew grants"),
                self._tasks.spawn(self._presences.keep_renewed(), name="renew presences"),
            )
            try:
                await self._stay_attached(attachment)
            finally:
                for task in renewing:
                    task.cancel()
        except Refused as refused:
            self._give_up(refused.failure.error())
        except Error as error:
            self._give_up(error)
        finally:
            if self._keeper is asyncio.current_task():
                self._keeper = None

    def _give_up(self, error: Error) -> None:
        self.lose_all(error)
        self._departures.leave()
        self._lanes.retire()

    async def _stay_attached(self, attachment: Attachment) -> None:
        """Raises Refused and Error when no session can be kept."""
        tries = pauses()
        next(tries)  # the immediate try is for sound sessions
        while True:
            since = self._clock()
            await self._use(attachment)
            end = await self._over(attachment)
            sound = self._clock() - since >= SOUND_AFTER and not self._tunnels.missing_on(attachment.session)
            self._session_over(attachment, end)
            if not self._tunnels:
                self._departures.leave()  # no next node is needed
                self._returns.drop()
                self._lanes.retire()
                return
            if end.failure is not None:
                self._search.ended(attachment.session.node, end.failure)
            if sound:
                tries = pauses()
            attachment = self._returns.take() or await self._attach_again(attachment, end, tries)

    async def _over(self, attachment: Attachment) -> End:
        """The session's end. Until then a nearer node is looked for."""
        looking = self._tasks.spawn(self._returns.keep_looking(attachment), name="look for a nearer node")
        try:
            return await attachment.session.over()
        finally:
            looking.cancel()

    async def _use(self, attachment: Attachment) -> None:
        """The session is up: bind the open tunnels on it, let those being opened go on, dial its lanes."""
        session = attachment.session
        self._session, self._resumption, self.trouble = session, None, ""
        self._clock_warning.compare(session.node.name, attachment.welcomed.node_time)
        self._presences.begin(session, resumed=attachment.welcomed.resumed)
        self._tunnels.withdraw_again(session, resumed=attachment.welcomed.resumed)
        missing = self._tunnels.announce_missing(session)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        async with asyncio.TaskGroup() as binds:
            for held in missing:
                binds.create_task(self._bind_at_next(attachment, held))
            # After the BINDs are sent: one TLS handshake for each lane must not delay them.
            located = self._directory.located
            if located is not None:
                self._lanes.follow(session.node, located.cluster_ca, attachment.welcomed, self._session_unknown)
        if session.up and attachment.nearer and self._tunnels.missing_on(session):
            session.leave_for_another("it does not take every tunnel")  # the node before does
        elif session.up:
            self._departures.leave()
        if not self._tunnels:
            self.emptied()

    async def _bind_at_next(self, attachment: Attachment, held: HeldTunnel) -> None:
        """Bind a tunnel at its next node, and tell those being left, where visitors still arrive."""
        session = attachment.session
        await self._tunnels.bind_again(session, held)
        if held.held_by(session.credentials):
            presence = self._presences.that_lists(held.latest)
            if presence is not None:
                self._departures.moved(held.latest, presence)

    def _session_over(self, attachment: Attachment, end: End) -> None:
        self._session, self.trouble = None, end.reason
        self._tunnels.forget_withdrawn()
        self._resumption = None
        if end.leaving:
            self._departures.add(attachment.session)
        elif not (end.failure is not None and end.failure.session_unknown):
            welcomed, name = attachment.welcomed, attachment.session.node.name
            until = self._clock() + welcomed.resume_seconds
            self._resumption = (Resumption(name, welcomed.credentials, end.silent), until)

    async def _attach_again(self, previous: Attachment, end: End, tries: Iterator[float]) -> Attachment:
        """Search until there is a session. Raises Refused and AuthError: no further try can help."""
        began, node = self._clock(), previous.session.node
        what = "is lost"
        if end.leaving:
            what = "is left" if end.failure is None else "asks to be left"
        logger.warning("node %s %s (%s): attaching again, %d tunnels", node.name, what, end.reason, len(self._tunnels))
        refused = end.failure is not None and end.failure.revoked
        avoided = node if end.leaving or end.broken or refused else None
        logged = ""
        if end.leaving and end.failure is not None:
            await self._stay(previous.session, min(end.failure.retry_after, LONGEST_STAY))
        for pause in tries:
            await self._sleep(max(pause, self._search.wait_before_dialling))
            try:
                home = node if self._tunnels.any_open else None
                attachment = await self._search.attach(self, self._resumable(), avoided, home)
            except AuthError:
                raise
            except Error as error:
                self.trouble = str(error)
                logger.log(logging.DEBUG if self.trouble == logged else logging.WARNING, "not attached yet: %s", error)
                logged = self.trouble
                avoided = None  # better this node than none
            else:
                logger.info("attached to node %s after %.1f s", attachment.session.node.name, self._clock() - began)
                return attachment
        raise AssertionError("pauses have no end")

    async def _stay(self, session: Session, seconds: float) -> None:
        """Stay with a node that asked to leave for the time that it gave, while it is there and no tunnel is being
        opened."""
        self._session_wanted.clear()
        if not seconds or self._waiting:
            return
        reasons = [self._tasks.spawn(wait, name="stay") for wait in (session.closed(), self._session_wanted.wait())]
        try:
            await asyncio.wait(reasons, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for reason in reasons:
                reason.cancel()

    def _resumable(self) -> Resumption | None:
        if self._resumption is None or self._clock() >= self._resumption[1]:
            return None
        return self._resumption[0]

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
        self._departures.leave()
        self._returns.drop()
        self._presences.end()
        self._session = None
