"""File stamps: times, size and inode of files, to find out whether they changed since they were read."""

from collections.abc import Iterable
from pathlib import Path

# For each file its modification time and its change time in nanoseconds, size in bytes and inode; None if it cannot be
# looked at.
Stamps = tuple[tuple[int, int, int, int] | None, ...]


def stamps_of(paths: Iterable[Path]) -> Stamps:
    """The current stamps of these files. A write or a replacement changes them, also one that keeps
    the modification time; and so do other permissions or another owner, with which they may be read now."""
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
