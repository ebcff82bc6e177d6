"""What a fork waits for: things that would stay half done in the child for ever.

An engine that another thread is starting, a module that it is importing, a call of gRPC that it is in: whoever uses
one of these in the child would wait for a thread that is not there. So they are done in here. And the engine halts, for
the TLS library has locks too.
"""

# A fork takes the newest lock first, and what is done in here may take these two modules': they come before.
import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

# Longer than any of it takes by itself. Then the fork happens anyhow, and its child may be unable to open tunnels.
LONGEST: Final = 5.0
# gRPC's own threads tidy up after a call that has returned, under locks of theirs.
SETTLE: Final = 0.05


def _nothing() -> None: ...


class ForkGuard:
    """A context; any number of threads may be in it at once, and a fork waits until none is.

    `halt` is called then, and `go_on` after the fork, in the parent.
    """

    def __init__(self) -> None:
        self.halt: Callable[[], None] = _nothing
        self.go_on: Callable[[], None] = _nothing
        self._inside = 0
        self._left_at = time.monotonic()
        self._left = threading.Condition(threading.Lock())

    def __enter__(self) -> None:
        with self._left:
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._left:
            self._inside -= 1
            self._left_at = time.monotonic()
            self._left.notify_all()

    def before_fork(self) -> None:
        """Wait, and let nobody in until the fork is over."""
        self._left.acquire()
        self._left.wait_for(lambda: not self._inside, LONGEST)
        time.sleep(max(0.0, self._left_at + SETTLE - time.monotonic()))
        self.halt()

    def after_fork(self) -> None:
        self.go_on()
        self._left.release()

    def after_fork_in_child(self) -> None:
        """As new: whoever is inside is a thread of the parent."""
        self._inside = 0
        self._left = threading.Condition(threading.Lock())


fork_guard = ForkGuard()
os.register_at_fork(
    before=fork_guard.before_fork, after_in_parent=fork_guard.after_fork, after_in_child=fork_guard.after_fork_in_child
)
