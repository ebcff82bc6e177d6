"""A back-up each day, by the registry itself."""

import asyncio
import logging
import stat
from pathlib import Path

import pytest
from portway_registry.access.bootstrap import bootstrap
from portway_registry.backup import daily
from portway_registry.backup.archive import parse
from portway_registry.backup.daily import KEPT, DailyBackups
from portway_registry.backup.moving import last_backup, note_backup
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.registry import Pki, running
from portway_testkit.links.carrier_link import until

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


class Days:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.fixture
async def store(memory: EmbeddedStore) -> EmbeddedStore:
    await bootstrap(memory, admin_token_file=None, now_ms=1)
    return memory


async def test_one_a_day_is_made(store: EmbeddedStore, tmp_path: Path) -> None:
    """Whole, for its owner alone, and noted; none while there is one of the last day, whoever made it."""
    clock, folder = Days(), tmp_path / "deep" / "backups"
    backups = DailyBackups(store, folder, clock, created_at_ms=1)
    path = await backups.make_if_due()
    assert path is not None
    archive = parse(path.read_bytes())
    assert {one.key for one in archive.records} == {"settings", "grant-keys/1"}
    assert path.name == f"{archive.cluster}-20270115T080000Z.backup"
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)) == (0o600, 0o700)
    noted = await last_backup(store)
    assert noted is not None
    assert noted.at_ms == clock.now_ms
    clock.now_ms += DAY_MS - 1
    assert await backups.make_if_due() is None
    clock.now_ms += 1
    await note_backup(store, clock.now_ms, records=0, by="etcdctl")
    assert await backups.make_if_due() is None
    clock.now_ms += DAY_MS
    assert await backups.make_if_due() is not None
    assert len(files(folder)) == 2


async def test_a_new_cluster_s_first_one_waits_for_an_hour(store: EmbeddedStore, tmp_path: Path) -> None:
    """One of its first seconds would count for a day, and have none of its nodes and clients."""
    clock = Days()
    backups = DailyBackups(store, tmp_path, clock, created_at_ms=clock.now_ms)
    assert await backups.make_if_due() is None
    clock.now_ms += HOUR_MS - 1
    assert await backups.make_if_due() is None
    assert await last_backup(store) is None
    clock.now_ms += 1
    assert await backups.make_if_due() is not None


async def test_the_newest_are_kept(store: EmbeddedStore, tmp_path: Path) -> None:
    """Files of others in the folder stay."""
    clock = Days()
    (tmp_path / "portway-other-20200101T000000Z.backup").touch()
    (tmp_path / "notes").touch()
    made = []
    for _ in range(KEPT + 3):
        made.append(await DailyBackups(store, tmp_path, clock, created_at_ms=1).make_if_due())
        clock.now_ms += DAY_MS
    left = set(files(tmp_path))
    assert left & set(made) == set(made[-KEPT:])
    assert len(left) == KEPT + 2


async def test_one_that_fails_is_logged(
    store: EmbeddedStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And tried again; nothing is noted."""
    monkeypatch.setattr(daily, "_LOOK_EVERY", 0.001)
    (tmp_path / "file").touch()
    with caplog.at_level(logging.ERROR):
        running = asyncio.ensure_future(DailyBackups(store, tmp_path / "file", Days(), created_at_ms=1).run())
        await until(lambda: len(caplog.records) > 1)
        running.cancel()
    assert caplog.records[0].getMessage() == "no back-up of the store is made"
    assert await last_backup(store) is None


async def test_a_registry_makes_them(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once one is due, beside its work."""
    monkeypatch.setattr(daily, "_FIRST_AFTER_MS", 0)
    folder = tmp_path / "backups"
    async with running(pki.config(tmp_path, backup_dir=folder)):
        # It is written under another name, by which it is there for a moment more.
        await until(lambda: folder.exists() and [one.suffix for one in files(folder)] == [".backup"])
    (path,) = files(folder)
    assert {"settings", "tokens/admin"} <= {one.key for one in parse(path.read_bytes()).records}
