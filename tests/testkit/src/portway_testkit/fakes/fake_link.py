"""A client's link with a fake search and fake sessions: a test decides how each attempt ends, and time advances only
where the link waits.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from portway.engine.dialogue import BindRequest, SessionCredentials, TunnelBound, Welcomed
from portway.engine.directory import Grant, Located, Node
from portway.engine.failures import Failure
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.link import Link
from portway.engine.search import Attachment, Resumption
from portway.engine.session import End, SessionEvents, SessionOver
from portway.engine.signer import Signer
from portway.errors import Attempt, Error, UnreachableError
from portway_proto.wire.statements import Claim, Presence
from portway_runtime.endpoints import Endpoint
from portway_runtime.tasks import Tasks

from portway_testkit.fakes.clock import ManualClock

RESET = End("connection reset")
NOWHERE = UnreachableError("no relay node could be reached")
RESUME_SECONDS = 60.0


def node(name: str) -> Node:
    return Node(name, "fra", Endpoint(f"{name}.test", 443), f"{name}.node.portway.internal", "test")


FAR_NODE = node("far")


class FakeSession:
    """A session that lasts until the test ends it. BIND raises the next of `refusals`; without one it is BOUND."""

    def __init__(self, name: str = "n1", resumes: "FakeSession | None" = None) -> None:
        self.node = node(name)
        self.credentials = SessionCredentials(f"{name}-{id(self)}".encode(), b"secret")
        self._resumes = resumes
        if resumes is not None:
            self.credentials = resumes.credentials
        self.binds: list[BindRequest] = []
        self.refusals: list[Exception] = []
        self.presences: list[Presence] = []
        self.grants: list[str] = []  # that came with them
        self.bound = asyncio.Event()
        self.presented = asyncio.Event()
        self.before_bound: Callable[[], object] = lambda: None
        self.left = asyncio.Event()
        self.moves: list[tuple[Claim, Presence]] = []
        self._over: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    @property
    def up(self) -> bool:
        return not self._over.done()

    @property
    def attachment(self) -> Attachment:
        resumed = self._resumes is not None
        welcomed = Welcomed(self.credentials, resumed, RESUME_SECONDS, 0, 0.0)
        return Attachment(self, welcomed)  # type: ignore[arg-type]

    async def bind(self, bind: BindRequest) -> TunnelBound:
        if not self.up:
            raise SessionOver("gone")
        self.before_bound()
        assert self.presences[-1].places(bind.claim)
        self.binds.append(bind)
        if self.refusals:
            raise self.refusals.pop(0)
        self.bound.set()
        return TunnelBound(len(self.binds), "a.test", 443, "", 0, b"")

    async def over(self) -> End:
        return await asyncio.shield(self._over)

    def end(self, end: End = RESET) -> None:
        self._over.set_result(end)

    def unbind(self, label: str) -> None:
        pass

    def present(self, presence: Presence, grant: str) -> None:
        self.presences.append(presence)
        self.grants.append(grant)
        self.presented.set()

    def moved(self, claim: Claim, presence: Presence) -> None:
        assert not self.left.is_set()
        self.moves.append((claim, presence))

    def leave_for_another(self, reason: str) -> None:
        self.end(End(reason, leaving=True))

    def drop(self, end: End) -> None:
        self.end(end)

    def leave(self) -> None:
        self.left.set()
        if self.up:
            self.end(End("closed here"))


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt: its arguments and its time."""

    at: float
    resume: Resumption | None
    avoided: Node | None
    home: Node | None


@dataclass(slots=True)
class FakeSearch:
    """Each attempt ends with the next of `outcomes`, a session or an error; without one it does not end."""

    clock: ManualClock
    outcomes: list[FakeSession | Exception] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    new_tunnels: list[int] = field(default_factory=list)  # of each attempt
    wait_before_dialling: float = 0.0
    attempts: tuple[Attempt, ...] = ()
    exhausted: asyncio.Event = field(default_factory=asyncio.Event)
    ended_with: list[Failure] = field(default_factory=list)

    def ended(self, node: Node, failure: Failure) -> None:
        self.ended_with.append(failure)

    async def attach(
        self,
        events: SessionEvents,
        resume: Resumption | None = None,
        avoided: Node | None = None,
        home: Node | None = None,
        new_tunnels: int = 0,
    ) -> Attachment:
        self.tried.append(Tried(self.clock.now, resume, avoided, home))
        self.new_tunnels.append(new_tunnels)
        if not self.outcomes:
            self.exhausted.set()
            await asyncio.Event().wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome.attachment


class FakeReturns:
    """In place of Returns: finds a nearer node when the test says so. `looking` names the nodes that it looks from."""

    def __init__(self) -> None:
        self.looking: list[str] = []
        self._found: asyncio.Queue[FakeSession] = asyncio.Queue()
        self._next: FakeSession | None = None

    def find(self, session: FakeSession) -> None:
        """A nearer node has accepted this session."""
        self._found.put_nowait(session)

    async def keep_looking(self, attachment: Attachment) -> None:
        self.looking.append(attachment.session.node.name)
        try:
            self._next = await self._found.get()
            attachment.session.leave_for_another("a nearer node is ready")
            await asyncio.Event().wait()
        finally:
            self.looking.remove(attachment.session.node.name)

    def take(self) -> Attachment | None:
        session, self._next = self._next, None
        return None if session is None or not session.up else replace(session.attachment, nearer=True)

    def drop(self) -> None:
        if (attachment := self.take()) is not None:
            attachment.session.leave()


class FakeLanes:
    """Records data lanes."""

    def __init__(self, *_: object) -> None:
        self.retired = 0

    def follow(self, *_: object) -> None: ...

    def want(self, lanes: int) -> None: ...

    def trust(self, cluster_ca: bytes) -> None: ...

    def retire(self) -> None:
        self.retired += 1

    def close(self) -> None: ...


class FakeDirectory:
    """A registry that knows `nodes`, answers Locate with the next of `errors`, and counts the calls.

    named_before: names of other nodes that it has given.
    """

    def __init__(self) -> None:
        self.nodes = [FAR_NODE]
        self.errors: list[Error] = []
        self.asked = 0
        self.named_before: list[str] = []
        self.new_tunnels: list[int] = []  # of each Locate
        self.grant = "grant"
        self.on_locate: Callable[[], object] = lambda: None
        self.on_cluster_ca: list[Callable[[bytes], None]] = []

    @property
    def located(self) -> Located:
        return Located(tuple(self.nodes), b"ca", Grant(self.grant, 1800.0))

    async def locate(self, new_tunnels: int = 0, limit: int = 0) -> Located:
        self.asked += 1
        self.new_tunnels.append(new_tunnels)
        if self.errors:
            raise self.errors.pop(0)
        self.on_locate()
        return self.located

    def has_named_another(self, node: str) -> bool:
        return any(name != node for name in (*self.named_before, *(one.name for one in self.nodes)))

    async def keep_renewed(self) -> None:
        await asyncio.Event().wait()


class World:
    """A link with its surroundings; `pauses` are the seconds that it waited between attempts."""

    def __init__(self, search: FakeSearch, returns: FakeReturns) -> None:
        self.search = search
        self.returns = returns
        self.clock = search.clock
        self.pauses: list[float] = []
        self.tasks = Tasks("test")
        self.directory = FakeDirectory()
        directory: Any = self.directory
        carrier: Any = None
        self.signer = Signer()
        self.link = Link(carrier, directory, self.signer, self.tasks, self.clock, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.now += seconds
        await asyncio.sleep(0)

    def then(self, *outcomes: FakeSession | Exception) -> None:
        """Set how the next attempts end."""
        self.search.exhausted.clear()
        self.search.outcomes += outcomes

    async def through(self) -> None:
        """Return once every outcome has been used and one more attempt has begun."""
        await self.search.exhausted.wait()

    async def opened(self, held: HeldTunnel) -> FakeSession:
        """A tunnel, open on a first session."""
        session = FakeSession()
        self.then(session)
        await self.link.bind(held)
        self.pauses.clear()
        self.search.tried.clear()
        return session

    async def given_up(self) -> None:
        """Return once the link holds no tunnel any more."""
        assert self.link._keeper is not None
        await asyncio.wait({self.link._keeper})
