"""Whether files are still those that were read. Not here: what is in them."""

from collections.abc import Iterable
from pathlib import Path

Stamps = tuple[tuple[int, int, int] | None, ...]


def stamps_of(paths: Iterable[Path]) -> Stamps:
    """Of each file what changes when it is written or replaced; None of one that cannot be looked at."""
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
