"""What a mirror shows, and whom it tells."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from portway_registry.errors import StoreUnavailable
from portway_registry.store.contract import Delete, Entry, Listing, Put, Revision
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.mirror import Mirror
from portway_testkit.clusters.views import settle

HISTORY = 10  # events; a larger batch makes every watch list again


class Told:
    """A subscriber that keeps what it was told: key, old value, new value."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, bytes | None, bytes | None]] = []

    def __call__(self, old: Entry | None, new: Entry | None) -> None:
        either = old or new
        assert either is not None
        self.changes.append((either.key, old.value if old else None, new.value if new else None))


@pytest.fixture
async def store() -> AsyncIterator[EmbeddedStore]:
    store = EmbeddedStore(None, on_failure=print, history=HISTORY)
    yield store
    await store.close()


@pytest.fixture
async def mirror(store: EmbeddedStore) -> AsyncIterator[Mirror]:
    failures: list[BaseException] = []
    mirror = Mirror(store, "a/", on_failure=failures.append)
    yield mirror
    await mirror.close()
    assert not failures


async def caught_up(mirror: Mirror, store: EmbeddedStore) -> None:
    async with asyncio.timeout(5):
        await settle(store, mirror)


async def test_it_starts_with_what_is_there(store: EmbeddedStore, mirror: Mirror) -> None:
    """After start the view has everything below the prefix, and subscribers were told of it."""
    await store.write([Put("a/1", b"x"), Put("b/1", b"y")])
    mirror.subscribe(told := Told())
    await mirror.start()
    assert {key: entry.value for key, entry in mirror.entries.items()} == {"a/1": b"x"}
    assert told.changes == [("a/1", None, b"x")]


async def test_it_follows(store: EmbeddedStore, mirror: Mirror) -> None:
    """Every change is told once, with the entry before and after it, the view being changed already."""
    await mirror.start()
    mirror.subscribe(told := Told())
    sizes: list[int] = []
    mirror.subscribe(lambda old, new: sizes.append(len(mirror.entries)))
    await store.put("a/1", b"x")
    await store.put("a/1", b"y")
    await store.put("b/1", b"z")
    await store.delete("a/1")
    await caught_up(mirror, store)
    assert told.changes == [("a/1", None, b"x"), ("a/1", b"x", b"y"), ("a/1", b"y", None)]
    assert sizes == [1, 1, 0]


async def test_it_does_not_wait_for_a_revision_of_another_prefix(store: EmbeddedStore, mirror: Mirror) -> None:
    """A revision that was spent elsewhere is not waited for."""
    await store.put("a/1", b"x")
    await mirror.start()
    for _ in range(3):
        await store.put("b/1", b"")
    await caught_up(mirror, store)
    assert mirror.revision < (await store.list("")).revision


async def test_it_lists_again_after_compaction(store: EmbeddedStore, mirror: Mirror) -> None:
    """What happened while history was lost is told as differences: new, changed, gone; nothing else."""
    await store.write([Put("a/same", b"1"), Put("a/changed", b"1"), Put("a/gone", b"1")])
    await mirror.start()
    mirror.subscribe(told := Told())
    flood = [Put(f"b/{number}", b"") for number in range(HISTORY)]
    await store.write([Put("a/new", b"1"), Put("a/changed", b"2"), Delete("a/gone"), *flood])
    await caught_up(mirror, store)
    assert set(told.changes) == {("a/gone", b"1", None), ("a/changed", b"1", b"2"), ("a/new", None, b"1")}
    assert len(told.changes) == 3
    await store.put("a/later", b"1")
    await caught_up(mirror, store)
    assert told.changes[3:] == [("a/later", None, b"1")]


async def test_it_waits_for_a_store_that_is_away(
    store: EmbeddedStore, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While listing again fails nothing is removed; when the store is back the differences are told."""
    monkeypatch.setattr("portway_registry.store.mirror._PAUSE", 0.01)
    await store.put("a/1", b"x")
    await mirror.start()
    mirror.subscribe(told := Told())
    refused, changed = asyncio.Event(), asyncio.Event()
    mirror.subscribe(lambda old, new: changed.set())
    tries = 0
    listed = EmbeddedStore.list

    async def list_when_back(self: EmbeddedStore, prefix: str) -> Listing:
        nonlocal tries
        tries += 1
        if tries <= 2:
            refused.set()
            raise StoreUnavailable("away")
        return await listed(self, prefix)

    monkeypatch.setattr(EmbeddedStore, "list", list_when_back)
    await store.write([Delete("a/1"), *(Put(f"b/{number}", b"") for number in range(HISTORY))])
    await refused.wait()
    assert list(mirror.entries) == ["a/1"]
    assert told.changes == []
    async with asyncio.timeout(5):
        await changed.wait()
    assert not mirror.entries
    assert told.changes == [("a/1", b"x", None)]


async def test_who_unsubscribed_is_not_told(store: EmbeddedStore, mirror: Mirror) -> None:
    """What subscribe returned ends it; ending it twice is no error."""
    await mirror.start()
    end = mirror.subscribe(told := Told())
    end()
    end()
    await store.put("a/1", b"x")
    await caught_up(mirror, store)
    assert told.changes == []


async def test_a_subscriber_that_raises_is_reported(store: EmbeddedStore) -> None:
    """A view that is not kept any more never goes unnoticed."""
    failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    mirror = Mirror(store, "a/", on_failure=failed.set_result)
    await mirror.start()

    def raise_it(old: Entry | None, new: Entry | None) -> None:
        raise RuntimeError("no")

    mirror.subscribe(raise_it)
    await store.put("a/1", b"x")
    async with asyncio.timeout(5):
        assert isinstance(await failed, RuntimeError)
    await mirror.close()


async def test_it_reached_at_once_what_it_has_seen(store: EmbeddedStore, mirror: Mirror) -> None:
    """A revision that the view has reached is not asked about."""
    await store.put("a/1", b"x")
    await mirror.start()
    await store.close()
    await mirror.reached(Revision(1))


async def test_it_catches_up_with_one_key(store: EmbeddedStore, mirror: Mirror) -> None:
    """One that was written, changed or deleted shows so, and one that was never there is not waited for."""
    await mirror.start()
    for change in (store.put("a/1", b"x"), store.put("a/1", b"y"), store.delete("a/1"), store.delete("a/none")):
        await change
        async with asyncio.timeout(5):
            await mirror.caught_up("a/1")
        entry = await store.get("a/1")
        assert mirror.entries.get("a/1") == entry


async def test_a_key_that_was_deleted_is_waited_for(
    store: EmbeddedStore, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the deletion has arrived, or what was created under the key since."""
    await store.put("a/1", b"x")
    await mirror.start()
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def deleted(key: str) -> None:
        if not gone.done():
            gone.set_result(None)

    monkeypatch.setattr(store, "get", deleted)
    waiting = asyncio.ensure_future(mirror.caught_up("a/1"))
    await gone
    await store.put("a/1", b"y")
    assert not waiting.done()
    await store.delete("a/1")
    async with asyncio.timeout(5):
        await waiting
    assert not mirror.entries


async def test_it_starts_once(store: EmbeddedStore, mirror: Mirror) -> None:
    """Started again, as when another view could not start, it still tells each change once."""
    await mirror.start()
    await mirror.start()
    mirror.subscribe(told := Told())
    await store.put("a/1", b"x")
    await caught_up(mirror, store)
    assert told.changes == [("a/1", None, b"x")]
