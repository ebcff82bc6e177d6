"""What every store does with leases."""

import asyncio

import pytest
from portway_registry.errors import LeaseLost
from portway_registry.store.contract import Event, EventKind, LeaseId, Put, Store
from portway_testkit.clusters.registry import PATIENCE

# Seconds. A lease can be as short as one, in which a busy machine may not get as far as the first refresh.
SHORT = 3
UNKNOWN = LeaseId(0x1234567)


async def test_a_revoked_lease_takes_its_keys_along(store: Store, prefix: str) -> None:
    """The keys of a lease vanish with it; those of another stay."""
    ended, other = await store.grant_lease(30), await store.grant_lease(30)
    assert ended != other
    await store.write(
        [
            Put(prefix + "a", b"1", lease=ended),
            Put(prefix + "b", b"1", lease=ended),
            Put(prefix + "c", b"1", lease=other),
        ]
    )
    entry = await store.get(prefix + "a")
    assert entry is not None
    assert entry.lease == ended
    await store.revoke_lease(ended)
    assert [e.key for e in (await store.list(prefix)).entries] == [prefix + "c"]


async def test_a_key_put_without_its_lease_is_let_go(store: Store, prefix: str) -> None:
    """A key that is written again with another lease, or none, no longer hangs on the first."""
    first, second = await store.grant_lease(30), await store.grant_lease(30)
    await store.write([Put(prefix + "a", b"1", lease=first), Put(prefix + "b", b"1", lease=first)])
    await store.write([Put(prefix + "a", b"2"), Put(prefix + "b", b"2", lease=second)])
    await store.revoke_lease(first)
    assert len((await store.list(prefix)).entries) == 2
    await store.revoke_lease(second)
    assert [e.key for e in (await store.list(prefix)).entries] == [prefix + "a"]


async def test_a_lease_runs_out(store: Store, prefix: str) -> None:
    """A lease that is not kept ends by itself: its keys are deleted, and watches see it."""
    watch = store.watch(prefix, (await store.list(prefix)).revision)
    lease = await store.grant_lease(SHORT)
    await store.put(prefix + "a", b"1", lease=lease)
    told: list[Event] = []
    async with asyncio.timeout(PATIENCE):
        while len(told) < 2:
            told += await anext(watch)
    await watch.aclose()
    assert [(event.kind, event.entry.key, event.entry.value) for event in told] == [
        (EventKind.PUT, prefix + "a", b"1"),
        (EventKind.DELETE, prefix + "a", b""),
    ]
    assert await store.get(prefix + "a") is None
    with pytest.raises(LeaseLost):
        await store.keep_lease(lease)


async def test_a_kept_lease_lives_on(store: Store, prefix: str) -> None:
    """A lease that is kept outlives one that was granted with it, and ends once it is not kept."""
    watch = store.watch(prefix, (await store.list(prefix)).revision)
    kept, dropped = await store.grant_lease(SHORT), await store.grant_lease(SHORT)
    await store.put(prefix + "kept", b"1", lease=kept)
    await store.put(prefix + "dropped", b"1", lease=dropped)
    deleted: list[str] = []

    async def until_deleted(number: int) -> None:
        while len(deleted) < number:
            deleted.extend(event.entry.key for event in await anext(watch) if event.kind is EventKind.DELETE)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        first = group.create_task(until_deleted(1))
        while not first.done():
            await store.keep_lease(kept)
            await asyncio.wait([first], timeout=0.2)
    assert deleted == [prefix + "dropped"]
    assert await store.get(prefix + "kept") is not None
    async with asyncio.timeout(PATIENCE):
        await until_deleted(2)
    assert deleted == [prefix + "dropped", prefix + "kept"]
    await watch.aclose()


async def test_an_unknown_lease_is_lost(store: Store, prefix: str) -> None:
    """Keeping it, or writing with it, raises LeaseLost; revoking it is no error."""
    with pytest.raises(LeaseLost):
        await store.keep_lease(UNKNOWN)
    with pytest.raises(LeaseLost):
        await store.put(prefix + "a", b"1", lease=UNKNOWN)
    await store.revoke_lease(UNKNOWN)
    assert await store.get(prefix + "a") is None


async def test_a_batch_with_a_lost_lease_raises(store: Store, prefix: str) -> None:
    """LeaseLost reaches the writer of a batch whatever the place of the bad write, with a condition or without."""
    good = await store.grant_lease(30)
    for expected in (None, 0):
        writes = [Put(f"{prefix}{number}", b"1", lease=good) for number in range(300)]
        writes[250] = Put(prefix + "bad", b"1", expected, UNKNOWN)  # type: ignore[arg-type]  # an int is a Revision
        with pytest.raises(LeaseLost):
            await store.write(writes)
        assert await store.get(prefix + "bad") is None


async def test_a_revoked_lease_cannot_be_kept(store: Store) -> None:
    """After revoke_lease the lease is lost to everyone."""
    lease = await store.grant_lease(30)
    await store.keep_lease(lease)
    await store.revoke_lease(lease)
    with pytest.raises(LeaseLost):
        await store.keep_lease(lease)
    await store.revoke_lease(lease)
