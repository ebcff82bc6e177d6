"""A process that can start no thread."""

import _thread
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
