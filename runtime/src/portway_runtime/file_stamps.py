"""File stamps: whether files are still the ones that were read. What is in them is the caller's."""

from collections.abc import Iterable
from pathlib import Path

# Of each file its modification time (ns), size and inode; None for one that cannot be looked at.
Stamps = tuple[tuple[int, int, int] | None, ...]


def stamps_of(paths: Iterable[Path]) -> Stamps:
    """The stamps of these files now; any write or replacement changes them."""
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
