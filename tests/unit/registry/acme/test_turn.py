"""One replica at a time: who has the turn, and how it passes to another."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from portway_registry.acme.turn import Turn
from portway_registry.errors import StoreUnavailable
from portway_registry.store.contract import Entry, Store
from portway_registry.store.open import open_store
from portway_registry.store.spec import parse_store
from portway_runtime.tasks import Tasks
from portway_testkit.links.carrier_link import until

KEY = "/turn"


class Flaky:
    """A store that answers, until it is told not to."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.away = False
        self.is_behind = False  # it shows no key
        self.refuses = ""  # the one call that fails
        self.put_takes = 0.0  # seconds until it answers

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **more: Any) -> Any:
            if self.away or name == self.refuses:
                raise StoreUnavailable("away")
            if self.is_behind and name == "get":
                return None
            answer = await getattr(self.store, name)(*arguments, **more)
            if name == "put":
                await asyncio.sleep(self.put_takes)
            return answer

        return call


class Replicas:
    """Two of them, which want to work."""

    def __init__(self, store: Store) -> None:
        self.stores: list[Any] = [Flaky(store), Flaky(store)]
        self.turns = [Turn(one, KEY, f"replica {number}", lease_seconds=1) for number, one in enumerate(self.stores)]
        self.working: set[int] = set()
        self.most = 0
        self.left: list[Entry | None] = []  # the key, when a work was over
        self.tasks = [Tasks(f"replica {number}") for number in range(2)]

    def start(self, number: int) -> None:
        async def work() -> None:
            self.working.add(number)
            self.most = max(self.most, len(self.working))
            try:
                await asyncio.Event().wait()
            finally:
                self.working.discard(number)
                self.left.append(await self.stores[number].store.get(KEY))

        self.tasks[number].spawn(self.turns[number].run(work), name="take turns")

    async def close(self) -> None:
        for tasks in self.tasks:
            await tasks.close()


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    opened = open_store(parse_store("embedded:memory"), on_failure=lambda error: None)
    replicas = Replicas(opened)
    yield replicas
    await replicas.close()
    await opened.close()


async def test_one_works_and_the_other_waits(replicas: Replicas) -> None:
    """When it stops it gives the turn up, and the other one need not wait for the end of a lease."""
    replicas.start(0)
    await until(lambda: replicas.working == {0})
    replicas.start(1)
    await asyncio.sleep(0)
    assert (replicas.turns[0].held, replicas.turns[1].held) == (True, False)
    await replicas.tasks[1].close()
    await replicas.tasks[0].close()
    assert not replicas.turns[0].held
    assert await replicas.stores[0].get(KEY) is None
    replicas.start(1)
    await until(lambda: replicas.working == {1})
    assert replicas.most == 1


async def test_of_two_that_begin_at_once_one_works(replicas: Replicas) -> None:
    """Neither has seen the other: the store decides."""
    for number, store in enumerate(replicas.stores):
        store.is_behind = True
        replicas.start(number)
    await until(lambda: bool(replicas.working))
    for _ in range(5):
        await replicas.stores[0].store.get(KEY)
    assert len(replicas.working) == replicas.most == 1


async def test_one_that_is_cut_off_stops_before_another_begins(replicas: Replicas) -> None:
    """Its lease ends later than its patience. When the store answers again it waits for its turn."""
    replicas.start(0)
    await until(lambda: replicas.working == {0})
    replicas.start(1)
    replicas.stores[0].away = True
    await until(lambda: replicas.working == {1})
    assert replicas.most == 1
    replicas.stores[0].away = False
    await replicas.tasks[1].close()
    await until(lambda: replicas.working == {0})


@pytest.mark.parametrize("put_takes", [0.0, 0.3])
async def test_one_whose_refreshes_are_refused_stops_before_its_lease_ends(
    replicas: Replicas, put_takes: float
) -> None:
    """They are refused at once, and not only unanswered; and the lease began before the turn did, where the store is
    slow."""
    replicas.stores[0].refuses = "keep_lease"
    replicas.stores[0].put_takes = put_takes
    replicas.start(0)
    await until(lambda: bool(replicas.left))
    assert replicas.left[0] is not None


async def test_a_lease_that_is_lost_ends_the_work(replicas: Replicas) -> None:
    """As after an outage of the store that outlasted it; the turn is taken again."""
    replicas.start(0)
    await until(lambda: replicas.working == {0})
    store: Store = replicas.stores[0].store
    entry = await store.get(KEY)
    assert entry is not None
    assert entry.value == b"replica 0"
    await store.revoke_lease(entry.lease)
    await until(lambda: not replicas.working)
    await until(lambda: replicas.working == {0})
