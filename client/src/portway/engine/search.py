"""Attaching: find a node that takes the session, and keep why each of the others did not.

HELLO goes to connections in the order in which they are ready. Not here: dialling (race.py), when to attach, and how
often to try (reconnect.py).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from portway_carrier.contract import Carrier
from portway_carrier.errors import CarrierError

from portway.engine.dialling import NO_ANSWER_YET, Attempted, RaceRecord, name_of, race
from portway.engine.dialogue import SessionKey, Welcomed
from portway.engine.directory import Directory, Located, Node, RoundTrip
from portway.engine.failures import Failure
from portway.engine.race_rule import RACERS, STAGGER
from portway.engine.retry import spread
from portway.engine.session import Session, SessionEvents, SessionOver
from portway.errors import Attempt, UnreachableError

# The node where the session can be resumed is worth waiting for: its visits have gone on. Not one that has been
# silent for ten seconds already: where it is this side's network that was away, it answers as soon as any other.
RESUME_HEAD_START: Final = 1.0

# Where the one node that is known has just been silent for ten seconds, a registry is asked for others after so long,
# and not when its dial has failed, seconds later.
SILENT_PATIENCE: Final = 0.5

_REGISTRY: Final[Attempted] = ("", "the registry")


class Refused(Exception):
    """A node refused the session for a reason that every node would give, or has given."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _StaleGrant(Exception):
    """A node did not accept the grant, and a registry may have a fresh one."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """A session to go on with, at its node alone. `silent`: the node was not heard of any more when it was lost."""

    node: str
    key: SessionKey
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Attached:
    """A session that is up."""

    node: Node
    session: Session
    welcomed: Welcomed


class Search:
    """Looks for a node, round after round. One that asks to be left alone for a while is, and the others are not."""

    def __init__(
        self,
        carrier: Carrier,
        directory: Directory,
        events: SessionEvents,
        clock: Callable[[], float] = time.monotonic,
        racers: int = RACERS,
        measured: Callable[[Sequence[RoundTrip], Located], None] | None = None,
    ) -> None:
        """`measured` is told the round trips of nodes that a registry has just named."""
        self._attempts: dict[Attempted, str] = {}
        self._disputable: dict[Attempted, Failure] = {}  # of those attempts: refusals that others need not share
        self._racers = racers
        self._measured = measured
        self._not_before: dict[str, float] = {}  # by node; of those that asked for it
        self._clock = clock
        self._carrier = carrier
        self._directory = directory
        self._events = events

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Whom the last round has tried, in that order, and why each did not do."""
        return tuple(Attempt(*who, reason) for who, reason in self._attempts.items())

    @property
    def asked_to_wait(self) -> float:
        """Seconds until one of the known nodes may be dialled; 0 when one may be now."""
        located = self._directory.located
        if located is None or not located.nodes:
            return 0.0
        now = self._clock()
        return max(0.0, min(self._not_before.get(node.name, now) for node in located.nodes) - now)

    async def attach(
        self, resume: Resumption | None = None, avoided: Node | None = None, home: Node | None = None
    ) -> Attached:
        """A session with the first node that takes one: of those that are known, then of those a registry names now.

        `home` is the node that open tunnels were at, if any are open.

        Raises UnreachableError with each one's reason, Refused, and what Directory.locate raises. Cancelled, it
        leaves no connection behind.
        """
        self._attempts, self._disputable = {}, {}
        tried: tuple[Node, ...] = ()
        given_up: tuple[Node, ...] = ()
        located = self._directory.located
        if located is not None:
            tried = self._may_be_dialled(in_order(located.nodes, resume, avoided, home))
            try:
                async with asyncio.timeout(_patience(tried, resume)):
                    course = RaceRecord(self._attempts)
                    if attached := await self._first_that_takes(tried, located, resume, course, may_be_stale=True):
                        return attached
            except (_StaleGrant, TimeoutError):
                given_up, tried = tried, ()  # dialled again, beside those that a registry names
        try:
            located = await self._locate()
        except UnreachableError:
            if located is None or not given_up:
                raise
            attached = await self._first_that_takes(given_up, located, resume, RaceRecord(self._attempts))
            if attached is None:
                raise
            return attached
        ordered = self._may_be_dialled(in_order(located.nodes, resume, avoided, home))
        fresh = [node for node in ordered if node not in tried]
        course = RaceRecord(self._attempts)
        if attached := await self._first_that_takes(fresh, located, resume, course):
            if self._measured is not None:
                self._measured(course.round_trips, located)
            return attached
        if (failure := self._all_say(located)) is not None:
            raise Refused(failure)
        raise UnreachableError("no relay node could be reached", self.attempts)

    def _all_say(self, located: Located) -> Failure | None:
        """Why every node refused that a registry names, or that was tried besides; None when one may still take it."""
        if self._disputable.keys() >= {*map(name_of, located.nodes), *self._attempts}:
            return next(iter(self._disputable.values()), None)
        return None

    async def _locate(self) -> Located:
        self._attempts[_REGISTRY] = NO_ANSWER_YET
        try:
            located = await self._directory.locate()
        except UnreachableError as error:
            del self._attempts[_REGISTRY]
            if not self._attempts:
                raise
            reasons = error.attempts or (Attempt(*_REGISTRY, str(error)),)
            self._attempts.update({(one.name, one.address): one.reason for one in reasons})
            raise UnreachableError("no relay node could be reached, and no registry", self.attempts) from None
        del self._attempts[_REGISTRY]
        return located

    async def _first_that_takes(
        self,
        nodes: Sequence[Node],
        located: Located,
        resume: Resumption | None,
        course: RaceRecord,
        *,
        may_be_stale: bool = False,
    ) -> Attached | None:
        """None when none of them does. Raises Refused; _StaleGrant when one says so and `may_be_stale`."""
        stagger = STAGGER if resume is None or resume.silent else RESUME_HEAD_START
        racing = race(self._carrier, nodes, located.cluster_ca, course, stagger, self._racers)
        async with aclosing(racing) as dialled:
            async for node, stream in dialled:
                try:
                    session = Session(self._carrier, stream, self._events)
                except CarrierError as error:
                    self._attempts[name_of(node)] = str(error)
                    continue
                key = resume.key if resume is not None and resume.node == node.name else None
                try:
                    return Attached(node, session, await session.hello(located.grant.token, key))
                except SessionOver as over:
                    self._attempts[name_of(node)] = str(over)
                    if over.failure is None:
                        continue
                    if over.failure.retry_after:
                        self._not_before[node.name] = self._clock() + spread(over.failure.retry_after)
                    if over.failure.for_good:
                        raise Refused(over.failure) from None
                    if over.failure.stale_grant and may_be_stale:
                        raise _StaleGrant from None
                    if over.failure.disputable:
                        self._disputable[name_of(node)] = over.failure
                except BaseException:
                    session.drop()
                    raise
        return None

    def _may_be_dialled(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        now = self._clock()
        self._not_before = {name: until for name, until in self._not_before.items() if until > now}
        return tuple(node for node in nodes if node.name not in self._not_before)


def _patience(nodes: Sequence[Node], resume: Resumption | None) -> float | None:
    """How long these nodes are all that is tried; None when as long as it takes."""
    silent = resume is not None and resume.silent and all(node.name == resume.node for node in nodes)
    return SILENT_PATIENCE if silent else None


def in_order(
    nodes: Sequence[Node], resume: Resumption | None, avoided: Node | None, home: Node | None
) -> tuple[Node, ...]:
    """The registry's order, but first the node where the session can be resumed, and never the one to avoid.

    With `home`, its region before the others, for that is where visitors of its names arrive; and `home` itself though
    it is not named: a registry names no node that is just starting again.
    """
    wanted = list(nodes)
    if home is not None:
        if home.name not in {node.name for node in wanted}:
            wanted.append(home)
        wanted.sort(key=lambda node: node.region != home.region)
    if resume is not None:
        wanted.sort(key=lambda node: node.name != resume.node)
    return tuple(node for node in wanted if avoided is None or node.name != avoided.name)
