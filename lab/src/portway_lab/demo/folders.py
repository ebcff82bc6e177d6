"""The folder of a demo: created, locked while in use, cleared at the end, and removed later if its demo was killed.

Here: which process owns a folder, and what is kept of it. Not here: its content.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "portway-demo-"
_LOCK = "owner.lock"
_KEPT_SUFFIXES = {".log", ".pid"}
_SWEEP_AFTER = 3600.0  # seconds; the logs of a demo that has ended may still be read


def make_folder() -> Path:
    """Create a folder that other users cannot read. Folders of demos that were killed are deleted first."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_stale(left):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_PREFIX))


@contextmanager
def owned_folder(folder: Path, *, keep_logs: bool) -> Iterator[None]:
    """Lock the folder. After a failure it is kept; otherwise it is deleted, but for its logs if `keep_logs`."""
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        except Exception:
            raise  # the folder is kept for inspection
        except BaseException:  # a signal ended it
            _clear(folder, keep_logs)
            raise
        else:
            _clear(folder, keep_logs)
    finally:
        os.close(lock)


def _clear(folder: Path, keep_logs: bool) -> None:
    if not keep_logs:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix not in _KEPT_SUFFIXES:
            path.unlink(missing_ok=True)


def _is_stale(folder: Path) -> bool:
    """Whether its demo has ended some time ago, in any way: the kernel releases the lock of a process that died."""
    try:
        if folder.stat().st_uid != os.getuid() or time.time() - folder.stat().st_mtime < _SWEEP_AFTER:
            return False
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(lock)
