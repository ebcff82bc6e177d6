"""What goes into a back-up, and how a store is filled from one: on both kinds of store."""

from collections.abc import AsyncIterator

import pytest
from portway_registry.access.bootstrap import bootstrap
from portway_registry.backup.archive import Archive, Record
from portway_registry.backup.moving import fill, note_backup, take
from portway_registry.errors import BackupUnreadable, StoreError, StoreInUse
from portway_registry.state import keys
from portway_registry.state.records import BackupRecord, decoder
from portway_registry.store.contract import Put, Store
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.open import open_store
from portway_registry.store.spec import parse_store

CLUSTER = "portway-0011223344556677"
SETTINGS = f'{{"cluster_id":"{CLUSTER}"}}'.encode()
ARCHIVE = Archive(CLUSTER, 7, "test", (Record("presences/00", b"\xff\x00"), Record("settings", SETTINGS)))


@pytest.fixture
async def target(store: str) -> AsyncIterator[Store]:
    """An empty store of each kind."""
    failures: list[BaseException] = []
    opened = open_store(parse_store(store), on_failure=failures.append)
    yield opened
    await opened.close()
    assert not failures


async def contents(store: Store) -> dict[str, bytes]:
    return {entry.key.removeprefix(keys.ROOT): entry.value for entry in (await store.list(keys.ROOT)).entries}


async def test_all_but_what_hangs_on_a_lease_moves(memory: EmbeddedStore, target: Store) -> None:
    """Also records of a kind that this release does not know; the new store knows when its back-up was made."""
    made = await bootstrap(memory, admin_token_file=None, now_ms=1)
    lease = await memory.grant_lease(60)
    await memory.write(
        [
            Put(keys.node("fra-1"), b"node", lease=lease),
            Put(keys.ROOT + "later/kind", b"\xff"),
            Put("/other/program", b"x"),
        ]
    )
    await note_backup(memory, 5, records=1, by="before")
    archive, living = await take(memory, now_ms=9, by="test")
    assert (archive.cluster, archive.made_at_ms, living) == (made.cluster_id, 9, 0)
    assert {one.key for one in archive.records} == {"settings", "grant-keys/1", "later/kind"}
    await fill(target, archive, is_shared=True)
    there = await contents(target)
    noted = decoder(BackupRecord)(there.pop("backup"))
    assert noted == BackupRecord(9, 3, "test")
    assert there == {one.key: one.value for one in archive.records}


async def test_a_store_that_is_not_empty_is_left_as_it_is(target: Store) -> None:
    """Its cluster is named, and deleted only by one who names it."""
    await bootstrap(target, admin_token_file=None, now_ms=1)
    before = await contents(target)
    theirs = (await take(target, now_ms=1, by=""))[0].cluster
    for replace in ("", CLUSTER, "yes"):
        with pytest.raises(StoreInUse, match=f"--replace {theirs}"):
            await fill(target, ARCHIVE, replace=replace, is_shared=True)
    assert await contents(target) == before
    await fill(target, ARCHIVE, replace=theirs, is_shared=True)
    assert (await contents(target)).keys() == {"presences/00", "settings", "backup"}


async def test_a_store_with_a_living_registry_is_never_filled(target: Store) -> None:
    """Not even by one who names its cluster; where nobody else can have it open, its record is an old one."""
    await fill(target, ARCHIVE, is_shared=True)
    lease = await target.grant_lease(60)
    await target.put(keys.replica("host-1"), b"{}", lease=lease)
    assert (await take(target, now_ms=1, by=""))[1] == 1
    with pytest.raises(StoreInUse, match=r"registries live on this store \(1\)"):
        await fill(target, ARCHIVE, replace=CLUSTER, is_shared=True)
    await fill(target, ARCHIVE, replace=CLUSTER, is_shared=False)
    assert keys.replica("host-1").removeprefix(keys.ROOT) not in await contents(target)


async def test_no_registry_starts_from_half_an_import(memory: EmbeddedStore) -> None:
    """It would make keys of its own; a repeated import finishes it, without a word on what is there."""
    await memory.put(keys.IMPORTING, b'{"at_ms":1}')
    await memory.put(keys.ROOT + "tokens/half", b"{}")
    with pytest.raises(StoreError, match="import into this store was not finished"):
        await bootstrap(memory, admin_token_file=None, now_ms=1)
    with pytest.raises(StoreError, match="import into this store was not finished"):
        await take(memory, now_ms=1, by="")
    await fill(memory, ARCHIVE, is_shared=False)
    assert (await contents(memory)).keys() == {"presences/00", "settings", "backup"}
    await bootstrap(memory, admin_token_file=None, now_ms=1)


@pytest.mark.parametrize(
    ("archive", "says"),
    [
        (Archive(CLUSTER, 1, "", ()), "no settings"),
        (Archive("other", 1, "", ARCHIVE.records), "is of cluster 'other'"),
        (Archive(CLUSTER, 1, "", (Record("settings", b"x"),)), "cannot be read"),
        (Archive(CLUSTER, 1, "", (*ARCHIVE.records, Record("importing", b""))), "'importing'"),
    ],
)
async def test_an_archive_that_is_no_cluster_s_changes_nothing(
    memory: EmbeddedStore, archive: Archive, says: str
) -> None:
    """It is refused before the store is touched."""
    with pytest.raises(BackupUnreadable, match=says):
        await fill(memory, archive, is_shared=False)
    assert not await contents(memory)


async def test_a_store_without_a_cluster_has_no_backup(target: Store) -> None:
    """Rather than an empty file that looks like one."""
    with pytest.raises(StoreError, match="no cluster"):
        await take(target, now_ms=1, by="")
