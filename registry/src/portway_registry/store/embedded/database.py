"""The SQLite file of the embedded store. What was committed survives a kill and a power cut.

Here: the tables, opening and loading, one transaction for a group of changes. Everything blocks: the store calls it in
a thread. Not here: conditions, revisions, watches.

WAL with synchronous=FULL: a commit is on the disk when it returns. NORMAL survives a kill as well, but a power cut may
undo the last commits, and a token that was shown once must not be lost. Group commit pays for it: one fsync for all
waiting writes.
"""

import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from portway_registry.errors import ConfigError
from portway_registry.store.contract import Entry, LeaseId, Revision

_APPLICATION = 0x50575953  # "PWYS": a file with another number is another program's
_LAYOUT = 1
_LOCK_PATIENCE = 2.0  # seconds; a registry that is being replaced closes the file within that
_TABLES = """
CREATE TABLE entries (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL,
    lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE leases (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL);
CREATE TABLE counter (revision INTEGER NOT NULL);
INSERT INTO counter VALUES (0);
"""


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of the file."""

    entries: tuple[Entry, ...]
    leases: dict[LeaseId, int]
    revision: Revision


@dataclass(frozen=True, slots=True)
class Changes:
    """One group: keys with their new entry (None: deleted), leases with their TTL in seconds (None: ended)."""

    entries: dict[str, Entry | None]
    leases: dict[LeaseId, int | None]
    revision: Revision


class Database:
    """One SQLite file, locked for this process. May be used from any thread, by one at a time."""

    def __init__(self, path: Path | None) -> None:
        """Open or create the file; with None all is in memory. Raises ConfigError when it cannot be used."""
        try:
            if path is not None:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # the registry's signing keys are in it
            self._connection = sqlite3.connect(
                path or ":memory:", timeout=_LOCK_PATIENCE, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"store file {path} cannot be opened ({error}): name a file you may write") from error
        try:
            self._prepare(path)
        except sqlite3.Error as error:
            self._connection.close()
            if "locked" in str(error):
                raise ConfigError(f"store file {path} is in use by another registry: stop that one first") from error
            if is_full(error):
                raise ConfigError(f"store file {path} cannot grow ({error}): make room on its disk") from error
            raise ConfigError(f"store file {path} is not usable ({error}): name another, or restore a copy") from error
        except ConfigError:
            self._connection.close()
            raise

    def _prepare(self, path: Path | None) -> None:
        run = self._connection.execute
        run("PRAGMA locking_mode=EXCLUSIVE")
        application, layout, tables = (
            run(question).fetchone()[0]
            for question in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if tables and application != _APPLICATION:
            raise ConfigError(f"store file {path} belongs to another program: name another file")
        if tables and layout != _LAYOUT:
            raise ConfigError(
                f"store file {path} has layout {layout}, this program reads {_LAYOUT}: use the version that made it"
            )
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=FULL")
        run("BEGIN EXCLUSIVE")
        if not tables:
            run(f"PRAGMA application_id={_APPLICATION}")
            run(f"PRAGMA user_version={_LAYOUT}")
            for statement in _TABLES.split(";"):
                run(statement)
        run("COMMIT")

    def load(self) -> Contents:
        """Read everything in the file."""
        run = self._connection.execute
        return Contents(
            tuple(
                Entry(key, value, Revision(created), Revision(modified), LeaseId(lease))
                for key, value, created, modified, lease in run(
                    "SELECT key, value, created, modified, lease FROM entries"
                )
            ),
            {LeaseId(lease): ttl for lease, ttl in run("SELECT id, ttl FROM leases")},
            Revision(run("SELECT revision FROM counter").fetchone()[0]),
        )

    def commit(self, changes: Changes) -> None:
        """Write a group, all or nothing; on return it is on the disk. Raises sqlite3.Error."""
        run, many = self._connection.execute, self._connection.executemany
        run("BEGIN IMMEDIATE")
        try:
            many("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", _rows(changes.entries.values()))
            many(
                "DELETE FROM entries WHERE key = ?", [(key,) for key, entry in changes.entries.items() if entry is None]
            )
            many(
                "INSERT OR REPLACE INTO leases VALUES (?, ?)",
                [(lease, ttl) for lease, ttl in changes.leases.items() if ttl is not None],
            )
            many("DELETE FROM leases WHERE id = ?", [(lease,) for lease, ttl in changes.leases.items() if ttl is None])
            run("UPDATE counter SET revision = ?", (changes.revision,))
            run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                run("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk has no room."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _rows(entries: Iterable[Entry | None]) -> list[tuple[str, bytes, int, int, int]]:
    return [(e.key, e.value, e.created, e.modified, e.lease) for e in entries if e is not None]
