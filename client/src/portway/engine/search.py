"""Search: finds a node that accepts the session, and records why each of the others was not used.

HELLO is sent on connections in the order in which they are ready. Not here: dialling (dialling.py), when to search and
how often (link.py).
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from portway_carrier.contract import Carrier, Stream
from portway_carrier.errors import CarrierError
from portway_runtime.clocks import Monotonic, monotonic

from portway.engine.dialling import NO_ANSWER_YET, Attempted, Dialled, RaceRecord, name_of, race
from portway.engine.dialogue import SessionCredentials, Welcomed
from portway.engine.directory import Directory, Located, Node, RoundTrip
from portway.engine.failures import Failure, spread_hint
from portway.engine.race_rule import RACERS, STAGGER
from portway.engine.session import Session, SessionEvents, SessionOver
from portway.engine.signer import Signer
from portway.errors import Attempt, UnreachableError

# Seconds that the node with the session to resume is dialled alone: its visits have gone on. None if it was silent for
# ten seconds already: if the fault is in this side's network, that node answers as soon as any other.
RESUME_HEAD_START: Final = 1.0

# Seconds. If the only node that is known was silent for ten seconds just now, a registry is asked for others after this
# time, and not when the dial has failed, seconds later.
SILENT_PATIENCE: Final = 0.5

_REGISTRY: Final[Attempted] = ("", "the registry")


class Refused(Exception):
    """The session was refused for a reason that two nodes have given, or every node."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _StaleGrant(Exception):
    """A node did not accept the grant, and a registry may have a fresh one."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """A session to continue, which only the node named `node` can. `silent`: it was lost because that fell silent."""

    node: str
    credentials: SessionCredentials
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """A session that is up, and the round trips that the race for it measured.

    nearer: it was begun because its node is nearer than that of the session before, which is up, too.
    """

    session: Session
    welcomed: Welcomed
    round_trips: tuple[RoundTrip, ...] = ()
    nearer: bool = False


class Search:
    """Searches for a node, as often as it is asked to. A node that asked to wait is not dialled before its time."""

    def __init__(
        self,
        carrier: Carrier,
        directory: Directory,
        signer: Signer,
        clock: Monotonic = monotonic,
        racers: int = RACERS,
        report: Callable[[Sequence[RoundTrip], Located], None] | None = None,
    ) -> None:
        """`report` is given the round trips of a race between nodes that a registry has just named."""
        self._carrier = carrier
        self._directory = directory
        self._signer = signer
        self._clock = clock
        self._racers = racers
        self._report = report
        self._attempts: dict[Attempted, str] = {}
        self._disputable: dict[Attempted, Failure] = {}  # those attempts' refusals that other nodes may not share
        self._not_before: dict[str, float] = {}  # by the name of each node that asked to wait
        self._revoking: set[str] = set()  # nodes that say that the token was revoked, while none accepts it

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The nodes and registries that the last search tried, in order, and why each was not used."""
        return tuple(Attempt(*who, reason) for who, reason in self._attempts.items())

    @property
    def wait_before_dialling(self) -> float:
        """Seconds until one of the known nodes may be dialled; 0 means now."""
        located = self._directory.located
        if located is None or not located.nodes:
            return 0.0
        now = self._clock()
        return max(0.0, min(self._not_before.get(node.name, now) for node in located.nodes) - now)

    def ended(self, node: Node, failure: Failure) -> None:
        """A session has ended with this. Raises Refused when that is final."""
        if failure.revoked:
            self._count_revoking(node, failure)

    async def attach(
        self,
        events: SessionEvents,
        resume: Resumption | None = None,
        avoided: Node | None = None,
        home: Node | None = None,
        new_tunnels: int = 0,
    ) -> Attachment:
        """A session with the first node that accepts one. Tries the nodes that are known, then asks a registry; the
        registry first while a node says that the token was revoked.

        events: receives the new session's. avoided: a node not to dial. home: the node that open tunnels were bound at.
        new_tunnels: those that are about to be opened, beside the open ones.

        Raises UnreachableError with each node's reason, Refused, and what Directory.locate raises. Cancelled, it
        leaves no connection behind.
        """
        self._attempts, self._disputable = {}, {}
        tried: tuple[Node, ...] = ()
        abandoned: tuple[Node, ...] = ()
        located = self._directory.located
        if located is not None:
            tried = self.may_be_dialled(in_order(located.nodes, resume, avoided, home))
            try:
                if self._revoking:
                    raise _StaleGrant
                async with asyncio.timeout(_patience(tried, resume)):
                    record = RaceRecord(self._attempts)
                    if attachment := await self._first_to_accept(
                        events, tried, located, resume, record, may_be_stale=True
                    ):
                        return attachment
            except (_StaleGrant, TimeoutError):
                abandoned, tried = tried, ()  # they are dialled again, beside those that a registry names
        try:
            located = await self._locate(new_tunnels)
        except UnreachableError:
            if located is None or not abandoned:
                raise
            record = RaceRecord(self._attempts)
            attachment = await self._first_to_accept(events, abandoned, located, resume, record)
            if attachment is None:
                raise
            return attachment
        ordered = self.may_be_dialled(in_order(located.nodes, resume, avoided, home))
        fresh = [node for node in ordered if node not in tried]
        record = RaceRecord(self._attempts)
        if attachment := await self._first_to_accept(events, fresh, located, resume, record):
            if self._report is not None:
                self._report(record.round_trips, located)
            return attachment
        if (failure := self._unanimous(located)) is not None:
            raise Refused(failure)
        raise UnreachableError("no relay node could be reached", self.attempts)

    def _unanimous(self, located: Located) -> Failure | None:
        """A disputable refusal, if every node that a registry names or that was tried has given one: two at least, or
        the only one that a registry has ever named."""
        names = {name for name, _ in self._disputable}
        if len(names) == 1 and self._directory.has_named_another(*names):
            return None
        if self._disputable.keys() >= {*map(name_of, located.nodes), *self._attempts}:
            return next(iter(self._disputable.values()), None)
        return None

    async def _locate(self, new_tunnels: int) -> Located:
        self._attempts[_REGISTRY] = NO_ANSWER_YET
        try:
            located = await self._directory.locate(new_tunnels)
        except UnreachableError as error:
            del self._attempts[_REGISTRY]
            if not self._attempts:
                raise
            reasons = error.attempts or (Attempt(*_REGISTRY, str(error)),)
            self._attempts.update({(one.name, one.address): one.reason for one in reasons})
            raise UnreachableError("no relay node could be reached, and no registry", self.attempts) from None
        del self._attempts[_REGISTRY]
        return located

    async def _first_to_accept(
        self,
        events: SessionEvents,
        nodes: Sequence[Node],
        located: Located,
        resume: Resumption | None,
        record: RaceRecord,
        *,
        may_be_stale: bool = False,
    ) -> Attachment | None:
        """None if no node accepts. Raises Refused, and with `may_be_stale` _StaleGrant if a node refuses the grant."""
        stagger = STAGGER if resume is None or resume.silent else RESUME_HEAD_START
        racing = race(self._carrier, nodes, located.cluster_ca, record, stagger, self._racers)
        async with aclosing(racing) as connections:
            async for node, stream in connections:
                credentials = resume.credentials if resume is not None and resume.node == node.name else None
                try:
                    session, welcomed = await self._hello(events, node, stream, located, credentials)
                    self._revoking.clear()
                    return Attachment(session, welcomed, tuple(record.round_trips))
                except CarrierError as error:
                    self._attempts[name_of(node)] = str(error)
                except SessionOver as over:
                    self._attempts[name_of(node)] = str(over)
                    if over.failure is None:
                        continue
                    self._heed_hint(node, over)
                    if over.failure.revoked:
                        self._count_revoking(node, over.failure)
                    if over.failure.stale_grant and may_be_stale:
                        raise _StaleGrant from None
                    if over.failure.disputable:
                        self._disputable[name_of(node)] = over.failure
        return None

    async def _hello(
        self,
        events: SessionEvents,
        node: Node,
        stream: Stream,
        located: Located,
        credentials: SessionCredentials | None,
    ) -> tuple[Session, Welcomed]:
        certificate = (await stream.ready()).peer_certificate
        session = Session(self._carrier, stream, events, node)
        signature = self._signer.greeting(node.name, certificate or b"")
        try:
            return session, await session.hello(located.grant.token, signature, credentials)
        except SessionOver:
            raise
        except BaseException:
            session.drop()
            raise

    async def greet(self, events: SessionEvents, node: Node, dialled: Dialled, located: Located) -> Attachment:
        """A session with this node, on a connection to it, beside the current one. Raises CarrierError and SessionOver
        when there is none. Cancelled, it leaves no connection behind."""
        try:
            session, welcomed = await self._hello(events, node, dialled.stream, located, None)
        except SessionOver as over:
            self._heed_hint(node, over)
            raise
        return Attachment(session, welcomed, (dialled.round_trip,), nearer=True)

    def _heed_hint(self, node: Node, over: SessionOver) -> None:
        if over.failure is not None and over.failure.retry_after:
            self._not_before[node.name] = self._clock() + spread_hint(over.failure.retry_after)

    def _count_revoking(self, node: Node, failure: Failure) -> None:
        """What two nodes say is so. Raises Refused."""
        self._revoking.add(node.name)
        if len(self._revoking) > 1:
            raise Refused(failure) from None

    def may_be_dialled(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """Without those that have asked to wait."""
        now = self._clock()
        self._not_before = {name: until for name, until in self._not_before.items() if until > now}
        return tuple(node for node in nodes if node.name not in self._not_before)


def _patience(nodes: Sequence[Node], resume: Resumption | None) -> float | None:
    """Seconds before a registry is asked for other nodes than these; None if only their failure leads there."""
    silent = resume is not None and resume.silent and all(node.name == resume.node for node in nodes)
    return SILENT_PATIENCE if silent else None


def in_order(
    nodes: Sequence[Node], resume: Resumption | None, avoided: Node | None, home: Node | None
) -> tuple[Node, ...]:
    """The order to dial in: the registry's, but first the node where the session can be resumed, and without `avoided`.

    With `home`, nodes of its region come before others, since visitors of its names arrive there; and `home` itself is
    included even if it is not in `nodes`: a registry does not name a node that is just restarting.
    """
    ordered = list(nodes)
    if home is not None:
        if home.name not in {node.name for node in ordered}:
            ordered.append(home)
        ordered.sort(key=lambda node: node.region != home.region)
    if resume is not None:
        ordered.sort(key=lambda node: node.name != resume.node)
    return tuple(node for node in ordered if avoided is None or node.name != avoided.name)
