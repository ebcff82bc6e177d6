"""ForkGuard: makes a fork wait for work that would stay half done in the child for ever.

Examples are an engine that another thread is starting, a module that it is importing, a gRPC call that it has begun.
The child has no such thread, so it would wait for one of these without end. All three run inside the guard. The TLS
library has locks of its own, so the engine registers here to stand still while the process forks.
"""

# At a fork these two modules acquire locks that guarded work may need. `before` hooks run in reverse order of
# registration, so theirs must be registered first.
import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from portway_runtime.os_threads import make_lock

# Guarded work takes less than this; the longest is a registry's call through a proxy. After it the fork happens
# anyway, and its child may be unable to open tunnels.
MAX_WAIT: Final = 7.0
# After a call has returned, gRPC's own threads clean up under locks of gRPC's for a few milliseconds.
SETTLE_TIME: Final = 0.05

Hook = Callable[[], None]


class ForkGuard:
    """A context manager. Any number of threads may be inside at once; a fork waits until none is, MAX_WAIT at most."""

    def __init__(self) -> None:
        self._before: list[Hook] = []
        self._after_in_parent: list[Hook] = []
        self._after_in_child: list[Hook] = []
        self._inside = 0
        self._left_at = time.monotonic()
        self._left = threading.Condition(make_lock())

    def register(self, *, before: Hook, after_in_parent: Hook, after_in_child: Hook) -> None:
        """Call these around each fork: `before` when no thread is inside any more, the others after the fork."""
        self._before.append(before)
        self._after_in_parent.append(after_in_parent)
        self._after_in_child.append(after_in_child)

    def __enter__(self) -> None:
        """Enter; waits while a fork is under way."""
        with self._left:
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._left:
            self._inside -= 1
            self._left_at = time.monotonic()
            self._left.notify_all()

    def before_fork(self) -> None:
        """Wait until no thread is inside, and let none in until the fork is over."""
        self._left.acquire()
        self._left.wait_for(lambda: not self._inside, MAX_WAIT)
        time.sleep(max(0.0, self._left_at + SETTLE_TIME - time.monotonic()))
        for hook in self._before:
            hook()

    def after_fork(self) -> None:
        """In the parent: go on."""
        for hook in self._after_in_parent:
            hook()
        self._left.release()

    def after_fork_in_child(self) -> None:
        """In the child: begin anew. Threads that were inside belong to the parent."""
        self._inside = 0
        self._left = threading.Condition(make_lock())
        for hook in self._after_in_child:
            hook()


fork_guard = ForkGuard()
os.register_at_fork(
    before=fork_guard.before_fork,
    after_in_parent=fork_guard.after_fork,
    after_in_child=fork_guard.after_fork_in_child,
)
