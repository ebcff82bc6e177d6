"""The folder of a demo: made, locked while it is used, cleared afterwards, and swept when its demo was killed.

Here: whose a folder is and what stays of it. Not here: what is in it.
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
_KEPT = {".log", ".pid"}
# Somebody may still read the logs of a demo that has ended.
_SWEEP_AFTER = 3600.0


def make_folder() -> Path:
    """A new folder that nobody else can read. What demos that were killed left behind is deleted first."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_stale(left):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_PREFIX))


@contextmanager
def owned_folder(folder: Path, *, keep_logs: bool) -> Iterator[None]:
    """Hold the folder. After a failure it stays whole; after a good end its logs stay if asked for, and no secret."""
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        except Exception:
            raise  # it stays, to be looked at
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
        elif path.suffix not in _KEPT:
            path.unlink(missing_ok=True)


def _is_stale(folder: Path) -> bool:
    """Whether its demo has ended a while ago, in whatever way: the kernel lets go of a dead owner's lock."""
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
