"""Threads of the operating system and what they wait with, also in a program whose threads are not.

gevent and eventlet replace the standard library's threads, locks and selectors by their own ("monkey patches"), for the
whole process. An event loop in one of their threads would stop every other one. What is made here is the standard
library's own: it comes from fresh copies of `_thread` and `select`, whatever the modules of these names hold now.

Here: starting a thread, a lock, an event, a selector. Not here: what a thread does. For sockets there is `_socket`,
which neither of them replaces.
"""

import _thread
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import selectors  # asyncio's: a program that only imports the client does not pay for it

_REPLACERS: Final = ("gevent", "eventlet")
# Seconds between two looks of a wait in a patched program, where only `time.sleep` lets others run.
_LOOK_AGAIN: Final = 0.002


def _fresh(name: str) -> Any:
    """A copy of an extension module, as it is after its first import. sys.modules is not changed."""
    import importlib.util

    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def patched() -> bool:
    """Whether this program's threads are not the operating system's."""
    return getattr(_thread.start_new_thread, "__module__", "").partition(".")[0] in _REPLACERS


def start_thread(function: Callable[[], object], name: str) -> None:
    """Run `function` on a daemon thread, which keeps neither the interpreter nor a loop from ending. Raises
    RuntimeError when the process can have no further thread."""
    if patched():
        _fresh("_thread").start_new_thread(function, ())
    else:
        threading.Thread(target=function, name=name, daemon=True).start()


def make_lock() -> threading.Lock:
    """A lock. Do not let another thread of this program run while it is held: in a patched program it would stop all of
    them."""
    lock: threading.Lock = (_fresh("_thread") if patched() else _thread).allocate_lock()
    return lock


class Event:
    """An event that is set once, by any thread."""

    def __init__(self) -> None:
        self._set = False
        self._lock = make_lock()
        self._lock.acquire()

    def set(self) -> None:
        """May be called again, by the same thread."""
        if not self._set:
            self._set = True
            self._lock.release()

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until it is set, `timeout` seconds at most, however many. Returns whether it is set."""
        if self._lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)):
            self._lock.release()
        return self._set

    def wait_among_others(self, timeout: float | None = None) -> bool:
        """`wait` for a thread of the program itself: in a patched program the others run meanwhile."""
        if not patched():
            return self.wait(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        while not self._set and (until is None or time.monotonic() < until):
            time.sleep(_LOOK_AGAIN)
        return self._set


def make_selector() -> "selectors.BaseSelector":
    """The platform's best selector."""
    import importlib.util
    import selectors

    if not patched():
        return selectors.DefaultSelector()
    # The module's own code, with the `select` that is not replaced.
    spec = importlib.util.find_spec("selectors")
    assert spec is not None
    copy = importlib.util.module_from_spec(spec)
    code = spec.loader.get_code("selectors")  # type: ignore[union-attr]
    copy.__dict__["__builtins__"] = {**vars(sys.modules["builtins"]), "__import__": _import_with_fresh_select}
    exec(code, copy.__dict__)  # noqa: S102 - the standard library's
    selector: selectors.BaseSelector = copy.DefaultSelector()
    return selector


def _import_with_fresh_select(name: str, *arguments: Any) -> Any:
    return _fresh("select") if name == "select" else __import__(name, *arguments)
