"""What of a store goes into a back-up, and how a store is filled from one.

What hangs on a lease is left out: nodes, their tunnels and the registries that live announce themselves to whichever
store the registry has when it starts.

An import that is interrupted leaves a mark, and no registry starts from a store with one: it would take what is missing
for a new cluster and make keys of its own.
"""

from collections.abc import Sequence
from typing import Final

from portway_registry.backup.archive import Archive, Record
from portway_registry.errors import BackupUnreadable, StoreError, StoreInUse
from portway_registry.state import keys
from portway_registry.state.records import BackupRecord, SettingsRecord, decoder, encode
from portway_registry.store.contract import NO_LEASE, Delete, Entry, Put, Store

_read_settings: Final = decoder(SettingsRecord)
_read_backup: Final = decoder(BackupRecord)
# Of the store itself, and not of the cluster in it.
_NOT_MOVED: Final = frozenset({keys.BACKUP, keys.IMPORTING})


async def take(store: Store, *, now_ms: int, by: str) -> tuple[Archive, int]:
    """The archive of a store, at one revision, and how many registries live on the store now: what they change
    afterwards is not in it.

    Raises StoreUnavailable, and StoreError for a store without a cluster.
    """
    entries = (await store.list(keys.ROOT)).entries
    if any(entry.key == keys.IMPORTING for entry in entries):
        raise StoreError("an import into this store was not finished: repeat `portway-registry import` first")
    records = [
        Record(entry.key.removeprefix(keys.ROOT), entry.value)
        for entry in entries
        if entry.lease == NO_LEASE and entry.key not in _NOT_MOVED
    ]
    return Archive(_cluster_of(entries), now_ms, by, tuple(records)), _replicas(entries)


async def note_backup(store: Store, at_ms: int, *, records: int, by: str) -> None:
    """Remember that the store was backed up. Raises StoreUnavailable."""
    await store.put(keys.BACKUP, encode(BackupRecord(at_ms, records, by)))


async def last_backup(store: Store) -> BackupRecord | None:
    """The last one that is recorded; a record that cannot be read is none. Raises StoreUnavailable."""
    entry = await store.get(keys.BACKUP)
    try:
        return None if entry is None else _read_backup(entry.value)
    except ValueError:
        return None


async def fill(store: Store, archive: Archive, *, replace: str = "", is_shared: bool) -> None:
    """Make the store what the archive has.

    replace: the id of the cluster that may be deleted from the store. is_shared: registries may live on the store while
    this runs. It may be repeated when it was interrupted.

    Raises StoreInUse, with nothing changed, for a store in which a cluster is that `replace` does not name, or on which
    a registry lives; BackupUnreadable for an archive without a cluster's settings; StoreError, StoreUnavailable.
    """
    puts = [Put(keys.ROOT + one.key, one.value) for one in archive.records]
    _check(archive)
    found = (await store.list(keys.ROOT)).entries
    if not any(entry.key == keys.IMPORTING for entry in found):
        _demand_free(found, replace, is_shared=is_shared)
    await store.put(keys.IMPORTING, encode(BackupRecord(archive.made_at_ms, len(puts), archive.by)))
    await store.write([Delete(entry.key) for entry in found if entry.key != keys.IMPORTING])
    await store.write(puts)
    there = {entry.key: entry.value for entry in (await store.list(keys.ROOT)).entries if entry.key not in _NOT_MOVED}
    if there != {put.key: put.value for put in puts}:
        raise StoreError("the store does not have what was written: another program writes to it too; stop that one")
    await note_backup(store, archive.made_at_ms, records=len(puts), by=archive.by)
    await store.delete(keys.IMPORTING)


def _check(archive: Archive) -> None:
    for one in archive.records:
        if not one.key or keys.ROOT + one.key in _NOT_MOVED:
            raise BackupUnreadable(f"the back-up has a record {one.key!r}, which is none of a cluster's")
    settings = next((one.value for one in archive.records if keys.ROOT + one.key == keys.SETTINGS), None)
    if settings is None:
        raise BackupUnreadable("the back-up has no settings of a cluster")
    try:
        cluster = _read_settings(settings).cluster_id
    except ValueError as error:
        raise BackupUnreadable(f"the back-up's settings cannot be read: {error}") from error
    if cluster != archive.cluster:
        raise BackupUnreadable(f"the back-up is of cluster {archive.cluster!r} and has the settings of {cluster!r}")


def _demand_free(found: Sequence[Entry], replace: str, *, is_shared: bool) -> None:
    if not found:
        return
    if is_shared and (living := _replicas(found)):
        raise StoreInUse(f"registries live on this store ({living}): stop them, and wait until their leases have ended")
    cluster = _cluster_of(found)
    if replace != cluster:
        raise StoreInUse(
            f"the store is not empty, it has {len(found)} records of cluster {cluster}: name another store, or give "
            f"--replace {cluster} to delete them for good"
        )


def _cluster_of(entries: Sequence[Entry]) -> str:
    settings = next((entry.value for entry in entries if entry.key == keys.SETTINGS), None)
    if settings is None:
        raise StoreError("the store has no cluster: no registry has ever started from it")
    try:
        return _read_settings(settings).cluster_id
    except ValueError as error:
        raise StoreError(f"{keys.SETTINGS} in the store cannot be read: {error}") from error


def _replicas(entries: Sequence[Entry]) -> int:
    return sum(entry.key.startswith(keys.REPLICAS) for entry in entries)
