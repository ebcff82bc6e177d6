"""A client's link with a fake search and fake sessions: a test decides how each attempt ends, and time advances only
where the link waits.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from portway.engine.dialogue import BindRequest, SessionKey, TunnelBound, Welcomed
from portway.engine.directory import Grant, Node
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.link import Link
from portway.engine.search import Attachment, Resumption
from portway.engine.session import End, SessionEvents, SessionOver
from portway_runtime.endpoints import Endpoint
from portway_runtime.tasks import Tasks

from portway_testkit.fakes.clock import ManualClock

RESET = End("connection reset")
RESUME_SECONDS = 60.0


class FakeSession:
    """A session that lasts until the test ends it, and binds every tunnel."""

    def __init__(self, name: str = "n1") -> None:
        self.node = Node(name, "fra", Endpoint(f"{name}.test", 443), f"{name}.node.portway.internal", "test")
        self.key = SessionKey(f"{name}-{id(self)}".encode(), b"secret")
        self.binds: list[BindRequest] = []
        self.bound = asyncio.Event()
        self.before_bound: Callable[[], object] = lambda: None
        self.left = asyncio.Event()
        self.moves: list[tuple[str, str, int, bytes]] = []
        self.grants: list[str] = []  # that it was shown after HELLO
        self._over: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    @property
    def up(self) -> bool:
        return not self._over.done()

    @property
    def attachment(self) -> Attachment:
        welcomed = Welcomed(self.key, False, self.node.name, "fra", RESUME_SECONDS, 0, 0.0)
        return Attachment(self.node, self, welcomed)  # type: ignore[arg-type]

    async def bind(self, bind: BindRequest) -> TunnelBound:
        if not self.up:
            raise SessionOver("gone")
        self.before_bound()
        self.binds.append(bind)
        self.bound.set()
        return TunnelBound(len(self.binds), "a.test", 443, "", 0, b"")

    async def over(self) -> End:
        return await asyncio.shield(self._over)

    def end(self, end: End = RESET) -> None:
        self._over.set_result(end)

    def unbind(self, label: str) -> None:
        pass

    def renewed(self, grant: str) -> None:
        self.grants.append(grant)

    def moved(self, label: str, node: str, epoch: int, proof: bytes) -> None:
        assert not self.left.is_set()
        self.moves.append((label, node, epoch, proof))

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
    attempts: tuple[()] = ()
    exhausted: asyncio.Event = field(default_factory=asyncio.Event)

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


class FakeLanes:
    """Records data lanes."""

    def __init__(self, *_: object) -> None:
        self.retired = 0

    def follow(self, *_: object) -> None: ...

    def want(self, lanes: int) -> None: ...

    def retire(self) -> None:
        self.retired += 1

    def close(self) -> None: ...


class World:
    """A link with its surroundings; `pauses` are the seconds that it waited between attempts."""

    def __init__(self, search: FakeSearch) -> None:
        self.search = search
        self.clock = search.clock
        self.pauses: list[float] = []
        self.tasks = Tasks("test")
        self.renewed: Callable[[Grant], None] = lambda grant: None  # tells the link of a new grant
        directory: Any = SimpleNamespace(located=None, keep_renewed=self._keep_renewed)
        carrier: Any = None
        self.link = Link(carrier, directory, self.tasks, self.clock, sleep=self._sleep)

    async def _keep_renewed(self, renewed: Callable[[Grant], None]) -> None:
        self.renewed = renewed
        await asyncio.Event().wait()

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
