"""Whether a replica reaches its store."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from portway_registry.errors import StoreError, StoreUnavailable
from portway_registry.state import store_reach
from portway_registry.state.store_reach import StoreReach
from portway_registry.store.contract import Store
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.links.carrier_link import until

NOT_FRESH = 2.0  # seconds after which an answer is none of now


class FailingStore:
    """Answers, or fails with `trouble`, or never answers while it is `silent`."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.silent = False
        self.reads = 0

    async def get(self, key: str) -> Any:
        self.reads += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble


class Stage:
    """Reads follow each other closely; a time that the test sets says how long they have not been answered."""

    def __init__(self) -> None:
        self.store = FailingStore()
        self.failures: list[BaseException] = []
        self.clock = ManualClock()
        self.reach = StoreReach(cast(Store, self.store), clock=self.clock, on_failure=self.failures.append)
        self.told: list[bool] = []
        self.reach.subscribe(lambda: self.told.append(self.reach.away))

    async def read(self) -> None:
        """Wait until the store was read, from now on, and it was seen what that means."""
        reads = self.store.reads
        await until(lambda: self.store.reads > reads + 1)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    for name, seconds in {"_EVERY": 0.01, "_AGAIN_AFTER": 0.01, "_READ_TIME": 0.05}.items():
        monkeypatch.setattr(store_reach, name, seconds)
    stage = Stage()
    yield stage
    await stage.reach.close()
    assert not stage.failures


@pytest.mark.parametrize("how", ["silent", "unavailable"])
async def test_it_is_away_after_a_while_without_answers(stage: Stage, how: str) -> None:
    """And not before; it is there again with the first answer."""
    stage.reach.start()
    await stage.read()
    stage.store.silent, stage.store.trouble = how == "silent", StoreUnavailable("gone")
    await stage.read()
    stage.clock.now += store_reach._AWAY_AFTER - 0.5
    await stage.read()
    assert not stage.told
    stage.clock.now += 0.5
    await until(lambda: stage.told == [True])
    stage.store.silent, stage.store.trouble = False, None
    await until(lambda: stage.told == [True, False])


async def test_a_moment_without_answers_is_nothing(stage: Stage) -> None:
    """As when etcd elects a leader; the next outage is counted from its own beginning."""
    stage.reach.start()
    for trouble in [StoreUnavailable("no leader"), None] * 4:  # for longer than that together
        stage.store.trouble = trouble
        await stage.read()
        stage.clock.now += store_reach._AWAY_AFTER - 0.5
        await stage.read()
    assert not stage.told


async def test_a_store_that_refuses_is_reached(stage: Stage) -> None:
    """What it refuses, it has answered."""
    stage.store.trouble = StoreError("no permission")
    stage.clock.now += NOT_FRESH
    assert await stage.reach.answers_now()
    assert stage.store.reads == 1


async def test_who_asks_is_told_how_it_is_now(stage: Stage) -> None:
    """By a read that those share who ask together, and none when one was answered just now."""
    stage.clock.now += NOT_FRESH
    assert await stage.reach.answers_now()
    stage.store.silent = True
    stage.clock.now += NOT_FRESH
    reads = stage.store.reads
    answers = await asyncio.gather(*(stage.reach.answers_now() for _ in range(10)))
    assert answers == [False] * 10
    assert stage.store.reads == reads + 1
    assert not stage.reach.away
    stage.store.silent = False
    stage.clock.now += NOT_FRESH
    assert await stage.reach.answers_now()
    reads = stage.store.reads
    assert await stage.reach.answers_now()
    assert stage.store.reads == reads


async def test_who_stops_asking_takes_no_answer_from_others(stage: Stage) -> None:
    """A call that is cancelled, as when a node goes away."""
    stage.clock.now += NOT_FRESH
    stage.store.silent = True
    one, other = (asyncio.ensure_future(stage.reach.answers_now()) for _ in range(2))
    await until(lambda: stage.store.reads == 1)
    one.cancel()
    assert await other is False
    assert one.cancelled()
