"""A back-up of the store each day, by the registry itself, in a folder of its machine.

Here: when one is due, its file, which files are kept. Not here: what is in it (moving.py, archive.py).
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from portway_runtime.backoff import jittered
from portway_runtime.secret_files import create_file
from portway_runtime.version import VERSION

from portway_registry.backup.archive import Archive, encode
from portway_registry.backup.moving import last_backup, note_backup, take
from portway_registry.errors import StoreError
from portway_registry.store.contract import Store

logger = logging.getLogger(__name__)

_DAY_MS: Final = 86_400_000
# After which age a cluster is backed up. In its first minutes it has keys and an admin's token, and what its operator
# makes next, nodes and clients' tokens, would be missing for a day.
_FIRST_AFTER_MS: Final = 3_600_000
_LOOK_EVERY: Final = 600.0  # seconds
KEPT: Final = 14  # files
_SUFFIX: Final = ".backup"


class DailyBackups:
    """Files in `folder`, named for the cluster and the time. Of several registries on one store one makes the day's: a
    back-up counts whoever made it."""

    def __init__(self, store: Store, folder: Path, now_ms: Callable[[], int], *, created_at_ms: int) -> None:
        """created_at_ms: when the cluster was made."""
        self._store = store
        self._first_at_ms = created_at_ms + _FIRST_AFTER_MS
        self._folder = folder
        self._now_ms = now_ms

    async def run(self) -> None:
        """Make what is due, for ever. One that fails is logged, and tried again at the next look."""
        while True:
            try:
                await self.make_if_due()
            except (StoreError, OSError) as error:
                logger.error(
                    "no back-up of the store is made", extra={"folder": str(self._folder), "reason": str(error)}
                )
            await asyncio.sleep(jittered(_LOOK_EVERY))

    async def make_if_due(self) -> Path | None:
        """Make one unless there is one of the last day, or the cluster is younger than an hour; its file. Raises
        StoreError and OSError."""
        if self._now_ms() < self._first_at_ms:
            return None
        last = await last_backup(self._store)
        if last is not None and self._now_ms() - last.at_ms < _DAY_MS:
            return None
        archive, _ = await take(self._store, now_ms=self._now_ms(), by=f"portway-registry {VERSION}")
        path = await asyncio.to_thread(self._write, archive)
        await note_backup(self._store, archive.made_at_ms, records=len(archive.records), by=archive.by)
        logger.info("back-up of the store made", extra={"file": str(path), "records": len(archive.records)})
        return path

    def _write(self, archive: Archive) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = datetime.fromtimestamp(archive.made_at_ms / 1000, UTC)
        path = self._folder / f"{archive.cluster}-{made:%Y%m%dT%H%M%SZ}{_SUFFIX}"
        create_file(path, b"".join(encode(archive)))
        older = sorted(self._folder.glob(f"{archive.cluster}-*{_SUFFIX}"))[:-KEPT]
        for one in older:
            one.unlink(missing_ok=True)
        return path
