"""What every store does with watches."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from portway_registry.errors import Compacted
from portway_registry.store.contract import Delete, Event, EventKind, Put, Revision, Store
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.etcd import EtcdStore

Watch = AsyncGenerator[tuple[Event, ...], None]


async def take(watch: Watch, count: int) -> list[Event]:
    """The next events, at least so many."""
    events: list[Event] = []
    async with asyncio.timeout(10):
        while len(events) < count:
            events.extend(await anext(watch))
    return events


def told(events: list[Event], prefix: str) -> list[tuple[EventKind, str, bytes]]:
    return [(event.kind, event.entry.key.removeprefix(prefix), event.entry.value) for event in events]


async def test_changes_after_a_revision_are_told_in_order(store: Store, prefix: str) -> None:
    """A watch begins after the revision it was given, whether the change came before the watch or after it."""
    await store.put(prefix + "before", b"0")
    after = (await store.list(prefix)).revision
    await store.put(prefix + "a", b"1")
    watch = store.watch(prefix, after)
    first = await take(watch, 1)
    await store.put(prefix + "a", b"2")
    await store.delete(prefix + "a")
    rest = await take(watch, 2)
    await watch.aclose()
    assert told(first + rest, prefix) == [
        (EventKind.PUT, "a", b"1"),
        (EventKind.PUT, "a", b"2"),
        (EventKind.DELETE, "a", b""),
    ]
    revisions = [event.entry.modified for event in first + rest]
    assert revisions == sorted(set(revisions))
    assert revisions[0] > after


async def test_an_event_carries_the_entry(store: Store, prefix: str) -> None:
    """The entry of a PUT is what get returns: value, revisions, lease."""
    after = (await store.list(prefix)).revision
    lease = await store.grant_lease(30)
    await store.put(prefix + "a", b"1", lease=lease)
    watch = store.watch(prefix, after)
    events = await take(watch, 1)
    await watch.aclose()
    assert events == [Event(EventKind.PUT, await store.get(prefix + "a"))]  # type: ignore[arg-type]  # it is there


async def test_other_prefixes_are_not_told(store: Store, prefix: str) -> None:
    """A watch tells of nothing beside its prefix."""
    watch = store.watch(prefix + "b/", (await store.list(prefix)).revision)
    await store.write(
        [Put(prefix + "a/1", b""), Put(prefix + "b/1", b""), Put(prefix + "b0", b""), Put(prefix + "b", b"")]
    )
    await store.put(prefix + "b/2", b"")
    events = await take(watch, 2)
    await watch.aclose()
    assert [event.entry.key.removeprefix(prefix) for event in events] == ["b/1", "b/2"]


async def test_a_watch_resumes_where_another_ended(store: Store, prefix: str) -> None:
    """A watch from the last revision that was told tells neither that one again nor skips the next."""
    after = (await store.list(prefix)).revision
    for number in range(10):
        await store.put(f"{prefix}{number}", b"")
    watch = store.watch(prefix, after)
    first = await take(watch, 1)
    await watch.aclose()
    again = store.watch(prefix, first[-1].entry.modified)
    rest = await take(again, 10 - len(first))
    await again.aclose()
    assert [event.entry.key for event in first + rest] == [f"{prefix}{number}" for number in range(10)]


async def test_a_batch_of_thousands_reaches_a_watch_whole(store: Store, prefix: str) -> None:
    """Each change of a large batch is told once, and no batch of events ends inside a revision."""
    watch = store.watch(prefix, (await store.list(prefix)).revision)
    writes = [Put(f"{prefix}{number}", b"v" * 1_000) for number in range(5_000)]
    await store.write(writes)
    seen: list[str] = []
    last = Revision(0)
    async with asyncio.timeout(20):
        while len(seen) < len(writes):
            batch = await anext(watch)
            assert batch[0].entry.modified > last
            last = batch[-1].entry.modified
            seen.extend(event.entry.key for event in batch)
    await watch.aclose()
    assert sorted(seen) == sorted(write.key for write in writes)


async def test_refused_writes_are_not_told(store: Store, prefix: str) -> None:
    """A write whose condition failed, and a deletion of nothing, are no changes."""
    watch = store.watch(prefix, (await store.list(prefix)).revision)
    await store.put(prefix + "a", b"1")
    await store.write([Put(prefix + "a", b"2", expected=Revision(0)), Delete(prefix + "b"), Put(prefix + "c", b"3")])
    events = await take(watch, 2)
    await watch.aclose()
    assert told(events, prefix) == [(EventKind.PUT, "a", b"1"), (EventKind.PUT, "c", b"3")]


async def test_compacted_revisions_cannot_be_watched(store: EmbeddedStore | EtcdStore, prefix: str) -> None:
    """A watch from before a compaction raises Compacted with a revision that can be watched from."""
    await store.put(prefix + "a", b"1")
    start = (await store.list(prefix)).revision
    await store.delete(prefix + "a")
    await store.put(prefix + "b", b"1")
    now = (await store.list(prefix)).revision
    await store.compact(now)
    await store.compact(now)
    with pytest.raises(Compacted) as raised:
        await take(store.watch(prefix, start), 1)
    await store.put(prefix + "c", b"1")
    watch = store.watch(prefix, Revision(max(raised.value.revision, now)))
    assert told(await take(watch, 1), prefix) == [(EventKind.PUT, "c", b"1")]
    await watch.aclose()


async def test_a_deletion_at_the_compacted_revision_is_not_lost(store: EmbeddedStore | EtcdStore, prefix: str) -> None:
    """A watch that would begin with a deletion which compaction removed raises Compacted instead of passing over it."""
    await store.put(prefix + "a", b"1")
    start = (await store.list(prefix)).revision
    await store.delete(prefix + "a")
    await store.compact((await store.list(prefix)).revision)
    with pytest.raises(Compacted):
        await take(store.watch(prefix, start), 1)


async def test_a_revision_that_was_not_reached_cannot_be_watched(store: Store, prefix: str) -> None:
    """A watch from the future, as after the store was restored from a copy, raises Compacted."""
    ahead = Revision((await store.list(prefix)).revision + 1_000_000)
    with pytest.raises(Compacted):
        await take(store.watch(prefix, ahead), 1)


async def test_a_watch_that_waits_can_be_cancelled(store: Store, prefix: str) -> None:
    """A task that waits for changes ends when it is cancelled, and the store goes on."""
    watch = store.watch(prefix, (await store.list(prefix)).revision)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await store.put(prefix + "a", b"1")


async def test_closing_the_store_ends_its_watches(store: Store, prefix: str) -> None:
    """A watch that waits when the store is closed ends as an iteration does, and raises nothing."""
    watch = store.watch(prefix, (await store.list(prefix)).revision)
    await store.put(prefix + "a", b"1")

    async def count() -> int:
        return sum([len(batch) async for batch in watch])

    counting = asyncio.ensure_future(count())
    other = store.watch(prefix, (await store.list(prefix)).revision)
    waiting = asyncio.ensure_future(anext(other, None))
    await store.put(prefix + "b", b"1")
    await waiting
    await store.close()
    async with asyncio.timeout(5):
        assert await counting <= 2
