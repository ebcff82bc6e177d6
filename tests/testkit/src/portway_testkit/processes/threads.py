"""A process that can start no thread, and signals to one thread of another process."""

import _thread
import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

# threading has them under names of its own, which differ from one release of Python to the next.
_STARTERS: Final = (
    (_thread, "start_new_thread"),
    (threading, "_start_new_thread"),
    (threading, "_start_joinable_thread"),
)


@contextmanager
def no_more_threads(error: str = "can't start new thread") -> Iterator[None]:
    """Inside the block no Python code of this process starts a thread. (The system's limit does not bind root.)"""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(error)

    with ExitStack() as patches:
        for module, name in _STARTERS:
            if hasattr(module, name):
                patches.enter_context(mock.patch.object(module, name, refuse))
        yield


def signal_another_thread(pid: int, number: signal.Signals) -> None:
    """Send a signal to a thread of the process other than its main one, to which the system gives it while the main
    one has another signal to look at. Its Python handler runs on the main thread, which sleeps on."""
    other = next(int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.tgkill(pid, other, number):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
