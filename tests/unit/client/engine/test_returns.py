"""portway.engine.returns: looks, dials and HELLO, whatever happens meanwhile. Dials and nodes are fakes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from portway.config import ReturnTimes
from portway.engine import returns as module
from portway.engine.dialling import DialFailed, Dialled
from portway.engine.directory import Expected, Grant, Located, Node, RoundTrip
from portway.engine.return_rule import ReturnRule
from portway.engine.returns import MANY_CANDIDATES, Returns
from portway.engine.search import Attachment
from portway.engine.session import SessionOver
from portway.errors import UnreachableError
from portway_runtime.endpoints import Endpoint
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.fake_link import FakeSession
from portway_testkit.links.carrier_link import until

TIMES = ReturnTimes()


def node(name: str) -> Node:
    return Node(name, f"region of {name}", Endpoint(f"{name}.test", 443), f"{name}.internal", "test")


class FakeStream:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


@dataclass
class World:
    """A session at the node `far`; `near` is 72 ms away and far 223. It is the directory, the search and the owner."""

    clock: ManualClock = field(default_factory=ManualClock)
    nodes: list[Node] = field(default_factory=lambda: [node("far"), node("near")])
    distances: dict[str, float] = field(default_factory=lambda: {"far": 223.0, "near": 72.0})
    locates: int = 0
    limits: list[int] = field(default_factory=list)
    names_far_only: bool = False  # unless it is asked for many
    unreachable: bool = False
    may_go: bool = True
    refusal: Exception | None = None
    greets: asyncio.Event = field(default_factory=asyncio.Event)
    streams: list[FakeStream] = field(default_factory=list)
    hanging: set[str] = field(default_factory=set)
    greeted: list[str] = field(default_factory=list)
    waiting: list[Node] = field(default_factory=list)  # nodes that asked to be dialled later
    told: list[RoundTrip] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rule = ReturnRule(TIMES, chance=lambda: 0.5)
        self.greets.set()
        fake: Any = self
        self.returns = Returns(fake, fake, fake, fake, fake, self.rule, self.clock)
        self.session = FakeSession("far")
        self.session.node = node("far")
        session: Any = self.session
        self.next = FakeSession("near")
        trips = (RoundTrip("far", 223.0), RoundTrip("near", 100.0, at_least=True))
        self.attachment = Attachment(session, self.session.attachment.welcomed, trips)

    @property
    def located(self) -> Located:
        expected = {one.name: Expected(0.0, False) for one in self.nodes}
        return Located(tuple(self.nodes), b"ca", Grant("grant", 1800.0), expected)

    async def locate(self, *, limit: int = 0) -> Located:
        self.locates += 1
        self.limits.append(limit)
        if self.unreachable:
            raise UnreachableError("no registry")
        located = self.located
        return located if limit or not self.names_far_only else replace(located, nodes=(node("far"),))

    def may_be_dialled(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        return tuple(one for one in nodes if one not in self.waiting)

    def may_go_to(self, _: Node) -> bool:
        return self.may_go

    def tell(self, round_trips: list[RoundTrip], _: Located) -> None:
        self.told += round_trips

    async def dial(self, _: object, to: Node, __: bytes) -> Dialled:
        if to.name in self.hanging:
            await asyncio.Event().wait()
        if to.name not in self.distances:
            raise DialFailed("refused", "refused")
        self.streams.append(FakeStream())
        stream: Any = self.streams[-1]
        ms = self.distances[to.name]
        return Dialled(stream, RoundTrip(to.name, ms), 2 * ms / 1000)

    async def greet(self, _: object, to: Node, dialled: Dialled, located: Located) -> Attachment:
        self.greeted.append(to.name)
        if self.refusal is not None:
            raise self.refusal
        await self.greets.wait()
        session: Any = self.next
        return Attachment(session, self.next.attachment.welcomed, (dialled.round_trip,), nearer=True)

    async def look(self) -> None:
        """Let the time of the next look come."""
        before = self.locates
        self.clock.now = self.rule.look_at
        await until(lambda: self.locates > before and self.rule.look_at > self.clock.now)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    world = World()
    monkeypatch.setattr(module, "dial", world.dial)
    monkeypatch.setattr(module, "READ_CLOCK_EVERY", 0.0)
    looking = asyncio.ensure_future(world.returns.keep_looking(world.attachment))
    await until(lambda: world.rule.look_at < 1e9)
    yield world
    looking.cancel()
    await asyncio.wait({looking})
    assert looking.cancelled()
    assert world.rule.look_at > 1e9, "no session, no look"


Change = Callable[[World], object]


async def test_the_second_look_goes_there(world: World) -> None:
    """On the connection that it has measured with; the others are closed, and a registry hears of what is news."""
    await world.look()
    assert [one.aborted for one in world.streams] == [True, True]
    assert world.greeted == []
    world.clock.now = world.rule.look_at
    await until(lambda: not world.session.up)
    assert world.greeted == ["near"]
    assert [one.aborted for one in world.streams].count(False) == 1
    assert {one.node for one in world.told} == {"far", "near"}
    end = await world.session.over()
    assert end.leaving
    taken = world.returns.take()
    assert taken is not None
    assert taken.nearer
    assert world.returns.take() is None
    assert not world.next.left.is_set()


@pytest.mark.parametrize(
    "change",
    [
        lambda world: setattr(world, "unreachable", True),
        lambda world: setattr(world, "may_go", False),
        lambda world: world.nodes.pop(),
        lambda world: world.waiting.append(world.nodes[1]),
        lambda world: world.distances.pop("near"),
        lambda world: world.distances.pop("far"),
        lambda world: world.distances.update(near=200.0),
    ],
    ids=["no registry", "a raw port would be lost", "not ready", "asked to wait", "refused", "no comparison", "far"],
)
async def test_nothing_comes_of_a_look(world: World, change: Change) -> None:
    """The session stays, every connection is closed, and the next looks come, ever later."""
    change(world)
    times = []
    for _ in range(4):
        await world.look()
        times.append(world.rule.look_at - world.clock.now)
    assert times == [2 * TIMES.look, 4 * TIMES.look, 8 * TIMES.look, TIMES.rest]
    assert world.session.up
    assert all(one.aborted for one in world.streams)
    assert world.greeted == []


async def test_a_region_that_was_near_is_asked_for_when_a_registry_leaves_it_out(world: World) -> None:
    """It may have a wrong idea of where the client is. One that never was near is not missed."""
    world.names_far_only = True
    await world.look()
    assert world.limits == [0]
    world.rule.measured(world.clock.now, "region of near", 72.0)
    await world.look()
    assert world.limits == [0, 0, MANY_CANDIDATES]
    world.clock.now = world.rule.look_at
    await until(lambda: not world.session.up)
    assert world.greeted == ["near"]


async def test_time_asleep_counts(world: World) -> None:
    """A machine that wakes looks at once, and goes when its minute has passed while it slept."""
    await world.look()
    world.clock.now += 8 * 3600.0
    await until(lambda: not world.session.up)
    assert world.locates == 2


async def test_a_node_that_refuses_keeps_nobody(world: World) -> None:
    """One that dies between its dial and WELCOME, too: the session stays, and the pause begins."""
    world.refusal = SessionOver("gone")
    await world.look()
    await world.look()
    assert world.greeted == ["near"]
    assert world.session.up
    at = world.clock.now
    await world.look()
    while len(world.greeted) < 2:
        await world.look()
    assert world.clock.now - at >= TIMES.pause


async def test_tunnels_that_close_before_welcome_need_no_other_node(world: World) -> None:
    """The new session is left at once; the old one is the link's to end."""
    world.greets.clear()
    await world.look()
    world.clock.now = world.rule.look_at
    await until(lambda: bool(world.greeted))
    world.may_go = False
    world.greets.set()
    await world.next.left.wait()
    assert world.session.up
    assert world.returns.take() is None


async def test_a_session_that_is_lost_while_nodes_are_dialled_leaves_no_connection(world: World) -> None:
    """Those that are there already are closed."""
    world.hanging.add("near")
    world.clock.now = world.rule.look_at
    await until(lambda: len(world.streams) == 1)
    assert not world.streams[0].aborted
    looking = [task for task in asyncio.all_tasks() if "keep_looking" in repr(task)]
    assert len(looking) == 1
    looking[0].cancel()
    await asyncio.wait(looking)
    assert world.streams[0].aborted


async def test_a_look_that_ends_late_does_not_keep_the_next_session_from_looking(world: World) -> None:
    """Its session was lost while nodes were dialled, and the next one is there before the dials are closed."""
    world.hanging.add("near")
    world.clock.now = world.rule.look_at
    await until(lambda: len(world.streams) == 1)
    [before] = [task for task in asyncio.all_tasks() if "keep_looking" in repr(task)]
    before.cancel()
    following = asyncio.ensure_future(world.returns.keep_looking(replace(world.attachment)))
    await asyncio.wait({before})
    world.hanging.clear()
    await world.look()
    following.cancel()
    await asyncio.wait({following})


async def test_a_session_that_nobody_takes_is_left(world: World) -> None:
    """The last tunnel was closed just then."""
    await world.look()
    world.clock.now = world.rule.look_at
    await until(lambda: not world.session.up)
    world.returns.drop()
    assert world.next.left.is_set()
    world.returns.drop()
