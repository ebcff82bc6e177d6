"""A link: one session that is kept up, across connections and nodes, for all tunnels with the same settings.

It attaches when the first tunnel is opened, attaches again by itself whenever the connection drops, and binds the
tunnels again under the same labels. It lingers when the last tunnel is closed, so that the next one opens in one
round trip. What no further attempt can mend ends its tunnels.

Not here: finding a node (attach.py), the control lane (session.py), data lanes (lanes.py).
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Final

from portway_proto.carry.contract import Carrier, LocalService
from portway_proto.carry.tasks import Tasks
from portway_proto.wire.labels import Label

from portway.engine.attach import Attached, Refused, Resumption, attach
from portway.engine.binding import Binding
from portway.engine.discovery import Directory, Located, Node
from portway.engine.failures import Failure
from portway.engine.lanes import DataLanes
from portway.engine.session import BindRefused, End, Session, SessionOver
from portway.errors import Attempt, AuthError, Error, RemoteError, UnreachableError

logger = logging.getLogger(__name__)

# The first try is immediate. After that a node that has gone must not be met by all its clients at once, and one
# that comes back must be noticed soon.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
# A connection that lasted so long was a good one: the next loss begins with an immediate try again.
STEADY: Final = 10.0
# As long as the node would let the session be resumed: opening the next tunnel within it is one round trip.
LINGER: Final = 60.0
# A grant is good for an hour after renewal is due, and honoured long after: no hurry.
RENEW_RETRY: Final = 60.0


def pauses() -> Iterator[float]:
    """Seconds to wait before each try."""
    yield 0.0
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries only
        pause = min(pause * 2, LONGEST_PAUSE)


class Link:
    """All its methods are called on the engine's loop."""

    def __init__(
        self,
        carrier: Carrier,
        directory: Directory,
        tasks: Tasks,
        clock: Callable[[], float] = time.monotonic,
        linger: float = LINGER,
    ) -> None:
        self._carrier = carrier
        self._directory = directory
        self._tasks = tasks
        self._clock = clock
        self._linger = linger
        self._table: dict[str, LocalService] = {}
        self._lanes = DataLanes(carrier, self._table)
        self._bindings: dict[Label, Binding] = {}
        self._released: set[Label] = set()  # while there was no session to say it on
        self._session: Session | None = None
        self._leaving: Session | None = None  # of a node that asked to be left, until the next one has the tunnels
        self._resumption: tuple[Resumption, float] | None = None  # and until when
        self._keeper: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._trouble: Error | None = None

    @property
    def attached(self) -> bool:
        return self._session is not None and self._session.up

    @property
    def trouble(self) -> Error | None:
        """Why the last attempt to attach failed; None while all is well."""
        return self._trouble

    async def bind(self, binding: Binding) -> None:
        """Open a tunnel; one round trip when the session is up. Raises Error. Cancelled, it leaves nothing behind."""
        self._bindings[binding.label] = binding
        self._table[binding.label] = binding.service
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        try:
            while binding.tunnel is None:
                session = await self._attached_session()
                try:
                    binding.bound(await session.bind(binding.next_bind()))
                except SessionOver:
                    continue  # the keeper attaches again; the next epoch, for the node may have taken this one
                except BindRefused as refused:
                    raise refused.failure.error() from None
        except BaseException:
            self.release(binding)
            raise

    def release(self, binding: Binding) -> None:
        """Close a tunnel; does nothing for one that is not open here."""
        if self._bindings.get(binding.label) is not binding:
            return
        self._forget(binding)
        if self._session is not None and self._session.up:
            if binding.shown:
                self._session.unbind(binding.label)
        else:
            self._released.add(binding.label)
        self._rest_if_unused()

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
        for binding in list(self._bindings.values()):
            if binding.tunnel is not None:
                self._lose(binding, error)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(error)

    # What a session tells.

    def tunnel_unbound(self, session: Session, label: str, failure: Failure) -> None:
        binding = self._bindings.get(Label(label))
        if session is not self._session or binding is None or binding.tunnel is None:
            return
        if failure.passing:
            self._tasks.spawn(self._bind_again(session, binding), name="bind again")
        else:
            self._lose(binding, failure.error())

    def lanes_wanted(self, session: Session, lanes: int) -> None:
        if session is self._session:
            self._lanes.want(lanes)

    # Keeping attached.

    async def _attached_session(self) -> Session:
        while self._session is None or not self._session.up:
            if self._keeper is None:
                self._keeper = self._tasks.spawn(self._keep(), name="keep a session")
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)
        return self._session

    async def _keep(self) -> None:
        """From the first attachment until no tunnel needs it, or none can be kept."""
        renewing = self._tasks.spawn(self._renew_grants(), name="renew grants")
        try:
            await self._stay_attached()
        except Error as error:
            self.lose_all(error)
        finally:
            renewing.cancel()
            if self._keeper is asyncio.current_task():
                self._keeper = None

    async def _stay_attached(self) -> None:
        attached = await self._attach()
        tries = pauses()
        next(tries)
        while True:
            since = self._clock()
            await self._take_up(attached)
            end = await attached.session.over()
            self._let_go(attached, end)
            if not self._bindings:
                self._lanes.retire()
                return
            if end.failure is not None and end.failure.for_good and not end.failure.stale_grant:
                raise end.failure.error()
            if self._clock() - since >= STEADY:
                tries = pauses()
            attached = await self._attach_again(attached, end, tries)

    async def _take_up(self, attached: Attached) -> None:
        """The session is up: bind on it what is open, let who waits go on, dial its lanes."""
        session = attached.session
        self._session = session
        self._trouble = None
        again = [binding for binding in self._bindings.values() if binding.tunnel is not None]
        if attached.welcomed.resumed:
            for label in self._released:
                session.unbind(label)
            again = []
        self._released.clear()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        async with asyncio.TaskGroup() as binds:
            for binding in again:
                binds.create_task(self._bind_again(session, binding))
            # After the BINDs, which go out first; a handshake each must not hold them up.
            located = self._directory.located
            if located is not None:
                self._lanes.follow(attached.node, located.cluster_ca, attached.welcomed)
        if self._leaving is not None:
            self._leaving.drop()
            self._leaving = None
        self._rest_if_unused()

    def _let_go(self, attached: Attached, end: End) -> None:
        self._session = None
        if end.leaving:
            self._leaving = attached.session
            self._resumption = None
        else:
            until = self._clock() + attached.welcomed.resume_seconds
            self._resumption = (Resumption(attached.node.name, attached.welcomed.key), until)

    async def _bind_again(self, session: Session, binding: Binding) -> None:
        """Bind with the next epoch, however often that takes, while the session lasts."""
        for pause in pauses():
            await asyncio.sleep(pause)
            if self._bindings.get(binding.label) is not binding:
                return
            try:
                binding.bound(await session.bind(binding.next_bind()))
            except SessionOver:
                return
            except BindRefused as refused:
                if not refused.failure.passing:
                    self._lose(binding, refused.failure.error())
                    return
            except RemoteError as error:
                self._lose(binding, error)
                return
            else:
                if self._bindings.get(binding.label) is not binding:
                    session.unbind(binding.label)  # closed while this was on its way
                return

    async def _attach_again(self, left: Attached, end: End, tries: Iterator[float]) -> Attached:
        """Until there is a session again. Raises Error when no further attempt can help."""
        began = self._clock()
        logger.warning(
            "the connection to node %s is lost (%s): attaching again, %d tunnels wait",
            left.node.name,
            end.reason,
            len(self._bindings),
        )
        avoided = left.node if end.leaving else None
        for pause in tries:
            await asyncio.sleep(pause)
            try:
                attached = await self._attach(avoided)
            except (UnreachableError, RemoteError) as error:
                self._trouble = error
                logger.debug("attaching failed: %s", error)
                avoided = None  # better the node that leaves than none
            else:
                logger.info("attached to node %s after %.1f s", attached.node.name, self._clock() - began)
                return attached
        raise AssertionError("pauses have no end")

    async def _attach(self, avoided: Node | None = None) -> Attached:
        """One round: the nodes that are known, then those that a registry names now. Raises Error."""
        located = self._directory.located
        tried: tuple[Node, ...] = ()
        attempts: tuple[Attempt, ...] = ()
        if located is not None:
            tried = self._in_order(located, avoided)
            try:
                return await attach(self._carrier, located, tried, self._resumable(), self)
            except UnreachableError as error:
                attempts = error.attempts
            except Refused as refused:
                if not refused.failure.stale_grant:
                    raise refused.failure.error() from None
                tried = ()  # a fresh grant may do
        try:
            located = await self._directory.locate()
        except UnreachableError as error:
            if not attempts:
                raise
            raise UnreachableError(
                "no relay node and no registry could be reached", attempts + error.attempts
            ) from None
        fresh = tuple(node for node in self._in_order(located, avoided) if node not in tried)
        try:
            return await attach(self._carrier, located, fresh, self._resumable(), self)
        except UnreachableError as error:
            raise UnreachableError("no relay node could be reached", attempts + error.attempts) from None
        except Refused as refused:
            raise refused.failure.error() from None

    def _in_order(self, located: Located, avoided: Node | None) -> tuple[Node, ...]:
        """The registry's order, but first the node where the session can be resumed."""
        resumable = self._resumable()
        nodes = [node for node in located.nodes if avoided is None or node.name != avoided.name]
        if resumable is not None:
            nodes.sort(key=lambda node: node.name != resumable.node)
        return tuple(nodes)

    def _resumable(self) -> Resumption | None:
        if self._resumption is None or self._clock() >= self._resumption[1]:
            return None
        return self._resumption[0]

    async def _renew_grants(self) -> None:
        """A grant at half its life is renewed, so that a registry may be away when a node is lost."""
        while True:
            due = self._directory.renewal_due_in() if self._directory.located is not None else RENEW_RETRY
            await asyncio.sleep(due)
            if self._directory.located is None or self._directory.renewal_due_in() > 0:
                continue
            try:
                await self._directory.renew()
            except AuthError as error:
                logger.warning("the registry does not renew the grant: %s", error)
                await asyncio.sleep(RENEW_RETRY)
            except Error as error:
                logger.info("the grant could not be renewed now: %s", error)
                await asyncio.sleep(RENEW_RETRY)

    # The end of things.

    def _lose(self, binding: Binding, error: Error) -> None:
        if self._bindings.get(binding.label) is binding:
            self._forget(binding)
            binding.lose(error)
            self._rest_if_unused()

    def _forget(self, binding: Binding) -> None:
        del self._bindings[binding.label]
        self._table.pop(binding.label, None)

    def _rest_if_unused(self) -> None:
        """Nobody needs it: linger while attached, stop trying otherwise."""
        if self._bindings:
            return
        if not self.attached:
            if self._keeper is not asyncio.current_task():
                self._stop_keeping()
        elif self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(self._linger, self._expire)

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
        if self._leaving is not None:
            self._leaving.drop()
            self._leaving = None
        self._session = None
