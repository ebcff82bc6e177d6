"""What the embedded store does beyond the contract: its file, its clock, a disk that fails."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from portway_registry.errors import Compacted, ConfigError, LeaseLost, StoreFull, StoreUnavailable
from portway_registry.store.contract import Put, Revision
from portway_registry.store.embedded import EmbeddedStore, database
from portway_registry.store.embedded.database import Changes, Database
from portway_runtime.errors import NoThread
from portway_testkit.processes.threads import no_more_threads


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(path: Path | None, clock: Callable[[], float] | None = None) -> AsyncIterator[EmbeddedStore]:
    failures: list[BaseException] = []
    store = EmbeddedStore(path, on_failure=failures.append, clock=clock or Clock())
    try:
        yield store
    finally:
        await store.close()
    assert not failures


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def test_its_thread_is_there_from_the_start(path: Path) -> None:
    """So that it writes when the process can start no other; without it the file is not opened."""
    async with opened(path) as store:
        with no_more_threads():
            await store.put("a", b"1")
    with no_more_threads(), pytest.raises(NoThread, match="ulimit -u"):
        EmbeddedStore(path, on_failure=print)
    async with opened(path) as store:
        entry = await store.get("a")
        assert entry is not None
        assert entry.value == b"1"


async def test_a_reopened_file_has_everything(path: Path) -> None:
    """Entries, their revisions and the counter are as they were when the file is opened again."""
    async with opened(path) as store:
        await store.write([Put("a", b"1"), Put("b", b"2")])
        await store.put("a", b"3")
        await store.delete("b")
        before = await store.list("")
    async with opened(path) as store:
        assert await store.list("") == before
        await store.put("c", b"")
        assert (await store.list("")).revision == before.revision + 1


async def test_a_file_that_was_opened_again_has_no_history(path: Path) -> None:
    """A watch goes on from the last revision, and is told to list when it is behind."""
    async with opened(path) as store:
        await store.write([Put("a", b"1"), Put("b", b"2")])
        revision = (await store.list("")).revision
    async with opened(path) as store:
        with pytest.raises(Compacted):
            await anext(store.watch("", Revision(revision - 1)))
        watch = store.watch("", revision)
        await store.put("c", b"")
        assert [event.entry.key for event in await anext(watch)] == ["c"]
        await watch.aclose()


async def test_the_file_is_its_owners_alone(path: Path) -> None:
    """Nobody else may read the file, in which signing keys are kept."""
    async with opened(path) as store:
        await store.put("a", b"1")
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


async def test_two_registries_cannot_share_a_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is told who has it."""
    monkeypatch.setattr("portway_registry.store.embedded.database._LOCK_PATIENCE", 0)
    async with opened(path):
        with pytest.raises(ConfigError, match="in use by another registry"):
            EmbeddedStore(path, on_failure=print)


def test_files_that_are_no_store_are_left_alone(path: Path) -> None:
    """Another program's database, a file that is none, a folder: each is refused and not written to."""
    path.write_bytes(b"notes" * 1_000)
    with pytest.raises(ConfigError, match="not usable"):
        Database(path)
    assert path.read_bytes() == b"notes" * 1_000
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    other.close()
    recipes = path.read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        Database(path)
    assert path.read_bytes() == recipes
    with pytest.raises(ConfigError, match="cannot be opened"):
        Database(path.parent)
    with pytest.raises(ConfigError, match="cannot be opened"):
        Database(path.parent / "missing" / "store.db")


async def test_a_lease_ends_when_its_time_is_over() -> None:
    """A lease ends ttl seconds after its last refresh, not before."""
    clock = Clock()
    async with opened(None, clock) as store:
        lease = await store.grant_lease(10)
        await store.put("a", b"", lease=lease)
        clock.now += 9
        await store.keep_lease(lease)
        clock.now += 9.9
        await store.end_due_leases()
        assert await store.get("a")
        clock.now += 0.2
        await store.end_due_leases()
        assert await store.get("a") is None
        with pytest.raises(LeaseLost):
            await store.keep_lease(lease)


async def test_a_reopened_lease_has_its_full_length(path: Path) -> None:
    """A lease outlives a restart under its id, and runs from the restart on."""
    clock = Clock()
    async with opened(path, clock) as store:
        kept, dropped, ended = [await store.grant_lease(10) for _ in range(3)]
        for name, lease in (("kept", kept), ("dropped", dropped), ("ended", ended)):
            await store.put(name, b"", lease=lease)
        await store.revoke_lease(ended)
    clock.now += 1_000
    async with opened(path, clock) as store:
        clock.now += 9
        await store.end_due_leases()
        assert [entry.key for entry in (await store.list("")).entries] == ["dropped", "kept"]
        await store.keep_lease(kept)
        clock.now += 2
        await store.end_due_leases()
        assert [entry.key for entry in (await store.list("")).entries] == ["kept"]
        with pytest.raises(LeaseLost):
            await store.keep_lease(ended)


async def test_a_disk_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that cannot be kept raises StoreUnavailable, is seen by nobody, and the next one may do better."""

    def refuse(_: Database, __: Changes) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async with opened(path) as store:
        lease = await store.grant_lease(10)
        before = await store.list("")
        with monkeypatch.context() as patch:
            patch.setattr(Database, "commit", refuse)
            with pytest.raises(StoreUnavailable, match="disk"):
                await store.put("a", b"1")
            with pytest.raises(StoreUnavailable, match="disk"):
                await store.revoke_lease(lease)
        assert await store.list("") == before
        await store.keep_lease(lease)
        assert await store.put("a", b"1", lease=lease)


async def test_a_full_disk_is_told_as_such(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the file whose disk it is, also in the log. What needs no room goes on."""
    async with opened(path) as store:
        await store.put("a", b"1")
        fill_up(store)
        with pytest.raises(StoreFull, match=r"store\.db cannot grow \(database or disk is full\): make room"):
            await store.put("b", b"2" * 100_000)
        assert await store.delete("a")
    told = [(one.__dict__["file"], one.__dict__["reason"]) for one in caplog.records if one.levelname == "ERROR"]
    assert told == [(str(path), "database or disk is full")]


def fill_up(store: EmbeddedStore) -> None:
    """Its file can grow no more, as on a disk that is full."""
    store._database._connection.execute("PRAGMA max_page_count=1")


def test_a_store_that_begins_on_a_full_disk_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither another file nor a copy would help."""
    monkeypatch.setattr(database, "_TABLES", f"PRAGMA max_page_count=1;{database._TABLES}")
    with pytest.raises(ConfigError, match=r"cannot grow .* make room on its disk"):
        Database(path)


async def test_writes_that_wait_share_a_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred callers at once cost two commits, not a hundred: one under way, one for all that waited."""
    commits: list[int] = []
    commit = Database.commit

    def counted(self: Database, changes: Changes) -> None:
        commits.append(len(changes.entries))
        commit(self, changes)

    monkeypatch.setattr(Database, "commit", counted)
    async with opened(path) as store:
        await asyncio.gather(*(store.put(str(number), b"") for number in range(100)))
    assert sum(commits) == 100
    assert len(commits) <= 2


async def test_memory_for_history_is_bounded() -> None:
    """A watch that falls behind by more than is kept raises Compacted."""
    store = EmbeddedStore(None, on_failure=print, history=10)
    await store.write([Put(str(number), b"") for number in range(11)])
    with pytest.raises(Compacted) as raised:
        await anext(store.watch("", Revision(0)))
    batch = await anext(watch := store.watch("", Revision(raised.value.revision)))
    assert len(batch) == 10
    await watch.aclose()
    await store.close()
