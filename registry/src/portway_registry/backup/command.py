"""`portway-registry export` and `import`: the file, the store, and what is told about them.

Neither contacts a registry. Both need what is needed to open the store, and nothing else of the settings.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from portway_runtime.printable import printable_line
from portway_runtime.secret_files import create_file
from portway_runtime.version import VERSION

from portway_registry.backup.archive import Archive, encode, parse
from portway_registry.backup.moving import fill, note_backup, take
from portway_registry.config import Config
from portway_registry.errors import BackupUnreadable, ConfigError, StoreError
from portway_registry.store.contract import Store
from portway_registry.store.open import open_store
from portway_registry.store.spec import EmbeddedSpec

# In place of a file: standard output or standard input.
STREAM: Final = "-"


async def export(config: Config, target: str) -> None:
    """Write the store that the settings name to the file `target`, which must not exist, and note that in the store.

    Raises ConfigError and StoreError.
    """
    spec = config.store_spec()
    if isinstance(spec, EmbeddedSpec) and (spec.path is None or not spec.path.is_file()):
        raise ConfigError(f"--store {config.store} names no file with a store: give that of the registry")
    async with _opened(config) as store:
        by = f"portway-registry {VERSION}"
        archive, living = await take(store, now_ms=time.time_ns() // 1_000_000, by=by)
        _write(target, b"".join(encode(archive)))
        await note_backup(store, archive.made_at_ms, records=len(archive.records), by=archive.by)
    _tell(
        f"wrote {_named(target)}: {_described(archive)}, with the private keys of its CA and grants: whoever reads it "
        "can act as the cluster" + ("" if target == STREAM else " (mode 0600)")
    )
    if living and not isinstance(spec, EmbeddedSpec):
        _tell(
            f"registries use this store ({living}): what changes from now on is not in the back-up. To move the "
            "cluster, stop them and export again"
        )


async def import_(config: Config, source: str, *, replace: str) -> None:
    """Fill the store that the settings name from the file `source`. `replace`: the cluster that may be deleted there.

    Raises ConfigError, BackupUnreadable and StoreError.
    """
    spec = config.store_spec()
    is_shared = not isinstance(spec, EmbeddedSpec)
    if isinstance(spec, EmbeddedSpec) and spec.path is None:
        raise ConfigError("--store embedded:memory keeps nothing: name another store")
    archive = parse(await asyncio.to_thread(_read, source))
    async with _opened(config) as store:
        await fill(store, archive, replace=replace, is_shared=is_shared)
    made = datetime.fromtimestamp(archive.made_at_ms / 1000, UTC)
    _tell(f"the store has {_described(archive)} as of {made:%Y-%m-%d %H:%M:%S} UTC. Start the registry on it")


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[Store]:
    failures: list[BaseException] = []
    store = open_store(config.store_spec(), on_failure=failures.append)
    try:
        yield store
    finally:
        await store.close()
    if failures:
        raise StoreError(f"the store failed: {failures[0]}") from failures[0]


def _write(target: str, content: bytes) -> None:
    try:
        if target == STREAM:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        elif not create_file(Path(target), content):
            raise ConfigError(f"{target} exists: a back-up is not overwritten, name another file")
    except OSError as error:
        raise ConfigError(f"cannot write {_named(target)}: {os.strerror(error.errno or 0)}") from error


def _read(source: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if source == STREAM else Path(source).read_bytes()
    except OSError as error:
        raise BackupUnreadable(f"cannot read {source}: {error.strerror}") from error


def _named(target: str) -> str:
    return "standard output" if target == STREAM else target


def _described(archive: Archive) -> str:
    return f"{len(archive.records)} records of cluster {archive.cluster}"


def _tell(text: str) -> None:
    """On stderr: the back-up itself may be on standard output."""
    print(printable_line(text), file=sys.stderr)
