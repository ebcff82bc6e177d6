"""What the etcd store does while etcd is killed, frozen, cut off or compacted."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from portway_registry.errors import StoreUnavailable
from portway_registry.store.contract import Entry, Event, EventKind, Put, Revision
from portway_registry.store.etcd import EtcdStore
from portway_registry.store.mirror import Mirror
from portway_registry.store.spec import EtcdSpec
from portway_testkit.clusters.etcd import EtcdServer, opened
from portway_testkit.clusters.registry import PATIENCE
from portway_testkit.clusters.views import settle
from portway_testkit.links.link import Link


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"/test/{secrets.token_hex(6)}/"


@pytest.fixture
async def store(server: EtcdServer) -> AsyncIterator[EtcdStore]:
    async with opened(server.spec()) as store:
        yield store


class Watched:
    """Collects what a watch tells, in a task."""

    def __init__(self, store: EtcdStore, prefix: str, after: Revision) -> None:
        self.events: list[Event] = []
        self._more = asyncio.Event()
        self._task = asyncio.ensure_future(self._collect(store, prefix, after))

    async def _collect(self, store: EtcdStore, prefix: str, after: Revision) -> None:
        async for batch in store.watch(prefix, after):
            self.events.extend(batch)
            self._more.set()

    async def until(self, key: str) -> None:
        """Wait until a key was told of."""
        async with asyncio.timeout(20):
            while not any(event.entry.key == key for event in self.events):
                self._more.clear()
                await self._more.wait()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def check(self, expected: list[str]) -> None:
        """Nothing lost, nothing doubled, in order."""
        assert [event.entry.key for event in self.events] == expected
        revisions = [event.entry.modified for event in self.events]
        assert revisions == sorted(set(revisions))


async def test_a_watch_outlives_a_killed_etcd(server: EtcdServer, store: EtcdStore, prefix: str) -> None:
    """A watch tells every change once across three kills of etcd, also what happened before it was back."""
    expected: list[str] = []

    async def write(name: str) -> None:
        for number in range(20):
            expected.append(f"{prefix}{name}/{number}")
            assert await store.put(expected[-1], b"", expected=Revision(0))

    async with Link(server.port) as link, opened(EtcdSpec((f"127.0.0.1:{link.port}",))) as watching:
        watched = Watched(watching, prefix, (await store.list(prefix)).revision)
        for outage in range(3):
            await write(f"{outage}/before")
            await watched.until(expected[-1])
            await write(f"{outage}/just before")
            await asyncio.to_thread(server.kill)
            link.cut(refuse=True)
            await asyncio.to_thread(server.start)
            await write(f"{outage}/while away")
            link.mend()
        await write("end")
        await watched.until(expected[-1])
        await watched.close()
    watched.check(expected)


async def test_calls_wait_for_a_short_outage(
    server: EtcdServer, store: EtcdStore, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that begins while etcd is down is done when it is back within the time limit."""
    monkeypatch.setattr("portway_registry.store.etcd.calls.TOTAL_SECONDS", PATIENCE)  # etcd's start is slow at times
    await asyncio.to_thread(server.kill)
    writing = asyncio.ensure_future(store.put(prefix + "a", b"1", expected=Revision(0)))
    await asyncio.to_thread(server.start)
    assert await writing
    entry = await store.get(prefix + "a")
    assert entry is not None
    assert entry.value == b"1"


@pytest.mark.slow
async def test_a_frozen_etcd_is_given_up_on_in_time(server: EtcdServer, store: EtcdStore, prefix: str) -> None:
    """Calls to a frozen etcd raise StoreUnavailable within seconds; its thaw brings all back, watches too."""
    watched = Watched(store, prefix, (await store.list(prefix)).revision)
    await store.put(prefix + "before", b"")
    await watched.until(prefix + "before")
    server.pause()
    try:
        for _ in range(2):  # the frozen connection is given up on during the second
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="did not answer within"):
                await store.get(prefix + "before")
            assert time.monotonic() - began < PATIENCE  # gRPC alone would find out after 40 s
    finally:
        server.resume()
    await store.put(prefix + "after", b"")
    await watched.until(prefix + "after")
    await watched.close()
    keys = [event.entry.key for event in watched.events]
    assert keys[0] == prefix + "before"
    assert set(keys) == {prefix + "before", prefix + "after"}


async def test_an_answer_that_was_lost_is_found_out(server: EtcdServer, prefix: str) -> None:
    """A conditional write that etcd did, but whose answer was lost, is reported as done and done once."""
    async with Link(server.port) as link, opened(EtcdSpec((f"127.0.0.1:{link.port}",))) as store:
        await store.put(prefix + "old", b"1")
        old = await store.get(prefix + "old")
        assert old is not None
        writes = [
            Put(prefix + "new", b"mine", expected=Revision(0)),
            Put(prefix + "old", b"mine", expected=old.modified),
            Put(prefix + "old2", b"mine", expected=old.modified),
        ]
        async with opened(server.spec()) as direct:
            after = (await direct.list(prefix)).revision
            watch = direct.watch(prefix, after)
            link.swallow_answers()
            writing = asyncio.ensure_future(store.write(writes))
            done_at_etcd = await anext(watch)
            link.mend()
            assert await writing == (True, True, False)
            await direct.put(prefix + "end", b"")
            following = await anext(watch)
            await watch.aclose()
    assert {event.entry.key for event in done_at_etcd} == {prefix + "new", prefix + "old"}
    assert [event.entry.key for event in following] == [prefix + "end"]


async def test_an_answer_that_was_lost_wins_nothing_for_the_loser(server: EtcdServer, prefix: str) -> None:
    """A conditional write that lost, and whose answer was lost as well, is reported as not done."""
    async with Link(server.port) as link, opened(EtcdSpec((f"127.0.0.1:{link.port}",))) as store:
        await store.put(prefix + "a", b"theirs")
        link.swallow_answers()
        writing = asyncio.ensure_future(store.put(prefix + "a", b"mine", expected=Revision(0)))
        await asyncio.wait([writing], timeout=0.2)
        assert not writing.done()
        link.mend()
        assert await writing is False


async def test_a_grant_whose_answer_was_lost_is_one_lease(server: EtcdServer, prefix: str) -> None:
    """A lease granted while answers were lost can be kept and used."""
    async with Link(server.port) as link, opened(EtcdSpec((f"127.0.0.1:{link.port}",))) as store:
        await store.get(prefix)
        link.swallow_answers()
        granting = asyncio.ensure_future(store.grant_lease(30))
        await asyncio.wait([granting], timeout=0.2)
        link.mend()
        lease = await granting
        await store.keep_lease(lease)
        assert await store.put(prefix + "a", b"1", lease=lease)


async def test_a_mirror_lists_again_when_it_missed_a_compaction(
    server: EtcdServer, store: EtcdStore, prefix: str
) -> None:
    """What changed while the mirror was cut off and history was compacted is told once, as differences."""
    await store.write([Put(prefix + key, b"1") for key in ("same", "changed", "gone")])
    failures: list[BaseException] = []
    told: list[tuple[str, bytes | None, bytes | None]] = []

    def tell(old: Entry | None, new: Entry | None) -> None:
        either = old or new
        assert either is not None
        told.append((either.key.removeprefix(prefix), old.value if old else None, new.value if new else None))

    async with Link(server.port) as link, opened(EtcdSpec((f"127.0.0.1:{link.port}",))) as away:
        mirror = Mirror(away, prefix, on_failure=failures.append)
        await mirror.start()
        mirror.subscribe(tell)
        link.cut(refuse=True)
        await store.write([Put(prefix + "new", b"1"), Put(prefix + "changed", b"2")])
        await store.delete(prefix + "gone")
        revision = (await store.list(prefix)).revision
        await asyncio.to_thread(server.compact, revision)
        assert len(mirror.entries) == 3
        assert told == []
        link.mend()
        async with asyncio.timeout(15):
            await settle(store, mirror)
        await store.put(prefix + "later", b"1")
        async with asyncio.timeout(15):
            await settle(store, mirror)
        await mirror.close()
    assert not failures
    assert sorted(told[:3], key=str) == [("changed", b"1", b"2"), ("gone", b"1", None), ("new", None, b"1")]
    assert told[3:] == [("later", None, b"1")]


async def test_a_mirror_removes_nothing_while_etcd_is_away(server: EtcdServer, store: EtcdStore, prefix: str) -> None:
    """A mirror keeps its view through an outage, and tells what happened after it."""
    await store.write([Put(f"{prefix}{number}", b"1") for number in range(100)])
    changes: list[Entry | None] = []
    mirror = Mirror(store, prefix, on_failure=print)
    await mirror.start()
    mirror.subscribe(lambda old, new: changes.append(new))
    await asyncio.to_thread(server.kill)
    assert len(mirror.entries) == 100
    await asyncio.to_thread(server.start)
    await store.delete(prefix + "7")
    async with asyncio.timeout(15):
        await settle(store, mirror)
    await mirror.close()
    assert changes == [None]
    assert len(mirror.entries) == 99


async def test_a_lease_outlives_a_restart_of_etcd(server: EtcdServer, store: EtcdStore, prefix: str) -> None:
    """A lease that is kept across a restart of etcd holds its keys."""
    lease = await store.grant_lease(10)
    await store.put(prefix + "a", b"1", lease=lease)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    await store.keep_lease(lease)
    entry = await store.get(prefix + "a")
    assert entry is not None
    assert entry.lease == lease


async def test_a_large_revision_comes_in_fragments_and_is_told_whole(
    server: EtcdServer, store: EtcdStore, prefix: str
) -> None:
    """Many large changes of one revision, more than one message of etcd's, are one batch."""
    lease = await store.grant_lease(30)
    names = [f"{prefix}{'k' * 4_000}{number}" for number in range(1_000)]
    await store.write([Put(name, b"", lease=lease) for name in names])
    watch = store.watch(prefix, (await store.list(prefix)).revision)
    await store.revoke_lease(lease)
    async with asyncio.timeout(20):
        batch = await anext(watch)
    await watch.aclose()
    assert {event.entry.modified for event in batch} == {batch[0].entry.modified}
    assert [event.kind for event in batch] == [EventKind.DELETE] * 1_000
    assert sorted(event.entry.key for event in batch) == sorted(names)
