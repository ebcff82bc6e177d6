"""What every store does with keys: reading, writing, conditions, batches."""

import asyncio

import pytest
from portway_registry.errors import StoreUnavailable
from portway_registry.store.contract import Delete, Put, Revision, Store
from portway_registry.store.embedded.database import Database
from portway_registry.store.etcd import EtcdStore


async def test_a_missing_key_is_none(store: Store, prefix: str) -> None:
    """A key that was never written reads as None."""
    assert await store.get(prefix + "a") is None


async def test_a_put_is_read_back(store: Store, prefix: str) -> None:
    """What was put is there, with the same revision for its first and last write."""
    assert await store.put(prefix + "a", b"\x00\xff")
    entry = await store.get(prefix + "a")
    assert entry is not None
    assert (entry.key, entry.value, entry.lease) == (prefix + "a", b"\x00\xff", 0)
    assert entry.created == entry.modified > 0


async def test_a_second_put_keeps_created(store: Store, prefix: str) -> None:
    """A key written again keeps the revision of its creation and gets a higher one for its last write."""
    await store.put(prefix + "a", b"1")
    first = await store.get(prefix + "a")
    await store.put(prefix + "a", b"2")
    second = await store.get(prefix + "a")
    assert first is not None
    assert second is not None
    assert second.value == b"2"
    assert second.created == first.created
    assert second.modified > first.modified


async def test_a_deleted_key_is_gone_and_created_anew(store: Store, prefix: str) -> None:
    """After a deletion the key reads as None, and the next put creates it anew."""
    await store.put(prefix + "a", b"1")
    before = await store.get(prefix + "a")
    assert await store.delete(prefix + "a")
    assert await store.get(prefix + "a") is None
    await store.put(prefix + "a", b"1")
    after = await store.get(prefix + "a")
    assert before is not None
    assert after is not None
    assert after.created > before.modified


async def test_deleting_what_is_not_there_succeeds(store: Store, prefix: str) -> None:
    """Without a condition, a deletion of nothing is done, and changes no revision."""
    before = (await store.list(prefix)).revision
    assert await store.delete(prefix + "a")
    assert (await store.list(prefix)).revision == before


async def test_the_last_entries_come_without_those_before_them(store: Store, prefix: str) -> None:
    """By key, the last one first, as many as there are and no more than asked for; no neighbour of the prefix."""
    names = [f"b/{number:05}" for number in range(2_500)]
    await store.write([Put(prefix + name, name.encode()) for name in ("a/1", "b", "b0", "c/1", *names)])
    for number in (0, 1, 999, 1_000, 2_001, 2_500, 3_000):
        found = await store.last(prefix + "b/", number)
        assert [entry.value.decode() for entry in found] == names[::-1][:number]
    assert await store.last(prefix + "nothing/", 10) == ()
    (entry,) = await store.last(prefix + "b/", 1)
    assert entry == await store.get(prefix + "b/02499")


async def test_the_last_entries_before_a_key(store: Store, prefix: str) -> None:
    """Of those whose keys are less, whether or not there is an entry of that key."""
    names = [f"b/{number:05}" for number in range(0, 2_500, 2)]
    await store.write([Put(prefix + name, name.encode()) for name in ("a/1", "b", "b0", "c/1", *names)])
    for key, less in (("b/02498", 1_249), ("b/02497", 1_249), ("b/00001", 1), ("b/00000", 0), ("b/x", 1_250)):
        for number in (1, 2, 1_100, 3_000):
            found = await store.last(prefix + "b/", number, before=prefix + key)
            assert [entry.value.decode() for entry in found] == names[:less][::-1][:number]


async def test_a_listing_is_sorted_and_keeps_to_its_prefix(store: Store, prefix: str) -> None:
    """A listing has the keys below its prefix, in order, and no neighbour."""
    for key in ("b/2", "b/1", "a/1", "b", "c/1", "b0"):
        await store.put(prefix + key, key.encode())
    listing = await store.list(prefix + "b/")
    assert [entry.key.removeprefix(prefix) for entry in listing.entries] == ["b/1", "b/2"]
    assert listing.revision >= max(entry.modified for entry in listing.entries)


async def test_2500_keys_are_listed_at_one_revision(store: Store, prefix: str) -> None:
    """A listing has everything, however many pages the store makes of it."""
    keys = [f"{prefix}{number:05}" for number in range(2_500)]
    assert all(await store.write([Put(key, key.encode()) for key in keys]))
    listing = await store.list(prefix)
    assert [entry.key for entry in listing.entries] == keys
    assert all(entry.value == entry.key.encode() for entry in listing.entries)


async def test_create_only_once(store: Store, prefix: str) -> None:
    """expected=0 writes a key that is not there, and refuses one that is."""
    assert await store.put(prefix + "a", b"1", expected=Revision(0))
    assert not await store.put(prefix + "a", b"2", expected=Revision(0))
    entry = await store.get(prefix + "a")
    assert entry is not None
    assert entry.value == b"1"


async def test_a_stale_revision_is_refused(store: Store, prefix: str) -> None:
    """A put or a deletion at a revision that is not the key's last does nothing."""
    await store.put(prefix + "a", b"1")
    old = await store.get(prefix + "a")
    assert old is not None
    assert await store.put(prefix + "a", b"2", expected=old.modified)
    assert not await store.put(prefix + "a", b"3", expected=old.modified)
    assert not await store.delete(prefix + "a", expected=old.modified)
    assert not await store.put(prefix + "b", b"1", expected=old.modified)
    now = await store.get(prefix + "a")
    assert now is not None
    assert now.value == b"2"
    assert await store.delete(prefix + "a", expected=now.modified)
    assert await store.get(prefix + "a") is None


async def test_a_deletion_may_demand_absence(store: Store, prefix: str) -> None:
    """expected=0 of a deletion holds when the key is not there."""
    assert await store.delete(prefix + "a", expected=Revision(0))
    await store.put(prefix + "a", b"1")
    assert not await store.delete(prefix + "a", expected=Revision(0))


async def test_one_of_many_racers_wins(store: Store, prefix: str) -> None:
    """Of 50 that create one key at once, one is told that it did, and its value stands."""
    won = await asyncio.gather(
        *(store.put(prefix + "a", str(racer).encode(), expected=Revision(0)) for racer in range(50))
    )
    entry = await store.get(prefix + "a")
    assert entry is not None
    assert won.count(True) == 1
    assert entry.value == str(won.index(True)).encode()


async def test_a_counter_raised_by_compare_and_swap_loses_nothing(store: Store, prefix: str) -> None:
    """Ten tasks that each raise a counter five times, trying again when they lose, make fifty."""

    async def raise_counter() -> None:
        done = 0
        while done < 5:
            entry = await store.get(prefix + "n")
            value = int(entry.value) if entry else 0
            done += await store.put(
                prefix + "n", str(value + 1).encode(), expected=entry.modified if entry else Revision(0)
            )

    await asyncio.gather(*(raise_counter() for _ in range(10)))
    entry = await store.get(prefix + "n")
    assert entry is not None
    assert entry.value == b"50"


async def test_a_batch_answers_each_write_in_order(store: Store, prefix: str) -> None:
    """Each write of a batch stands or falls by its own condition."""
    await store.put(prefix + "old", b"1")
    old = await store.get(prefix + "old")
    assert old is not None
    done = await store.write(
        [
            Put(prefix + "new", b"1", expected=Revision(0)),
            Put(prefix + "old", b"2", expected=Revision(0)),
            Delete(prefix + "missing"),
            Put(prefix + "any", b"1"),
            Delete(prefix + "old", expected=old.modified),
            Delete(prefix + "missing", expected=old.modified),
        ]
    )
    assert done == (True, False, True, True, True, False)
    assert [e.key.removeprefix(prefix) for e in (await store.list(prefix)).entries] == ["any", "new"]


async def test_a_batch_may_name_a_key_twice(store: Store, prefix: str) -> None:
    """Writes of one key in one batch happen in their order."""
    key = prefix + "a"
    done = await store.write(
        [
            Put(key, b"1", expected=Revision(0)),
            Put(key, b"2", expected=Revision(0)),
            Put(key, b"3"),
            Delete(key),
            Put(key, b"4"),
        ]
    )
    assert done == (True, False, True, True, True)
    entry = await store.get(key)
    assert entry is not None
    assert entry.value == b"4"


async def test_an_empty_batch_does_nothing(store: Store, prefix: str) -> None:
    """A batch of no writes is answered by nothing."""
    before = (await store.list(prefix)).revision
    assert await store.write([]) == ()
    assert (await store.list(prefix)).revision == before


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Those of stores from now on: each is one round trip to etcd, or one wait for the disk."""
    made: list[object] = []

    def count(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def counted(*args: object) -> object:
            made.append(args)
            return original(*args)

        monkeypatch.setattr(owner, name, counted)

    count(Database, "commit")
    count(EtcdStore, "_commit")
    return made


@pytest.mark.parametrize("expected", [None, Revision(0)])
async def test_a_thousand_announcements_are_quick(
    store: Store, prefix: str, expected: Revision | None, transactions: list[object]
) -> None:
    """A thousand leased writes, with or without a condition, take far less than a thousand round trips."""
    lease = await store.grant_lease(30)
    transactions.clear()
    writes = [Put(f"{prefix}{number}", b"x" * 200, expected, lease) for number in range(1_000)]
    assert await store.write(writes) == (True,) * 1_000
    assert 1 <= len(transactions) <= 10  # etcd takes 128 writes in one
    assert len((await store.list(prefix)).entries) == 1_000


async def test_values_of_half_a_megabyte_pass(store: Store, prefix: str) -> None:
    """A batch whose values together are larger than one message of the store's is written all the same."""
    writes = [Put(f"{prefix}{number}", bytes([number]) * 500_000) for number in range(5)]
    assert all(await store.write(writes))
    assert [entry.value for entry in (await store.list(prefix)).entries] == [write.value for write in writes]


async def test_a_cancelled_write_leaves_the_store_usable(store: Store, prefix: str) -> None:
    """A caller that gives up does not disturb those that wait with it."""
    given_up = asyncio.ensure_future(store.put(prefix + "a", b"1"))
    waiting = asyncio.ensure_future(store.put(prefix + "b", b"1"))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await waiting
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert await store.put(prefix + "c", b"1")


async def test_a_closed_store_says_so(store: Store, prefix: str) -> None:
    """After close every call raises StoreUnavailable at once, and closing again is no error."""
    await store.put(prefix + "a", b"1")
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get(prefix + "a")
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.put(prefix + "a", b"2")
    await store.close()
