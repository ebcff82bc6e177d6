"""Waiting for a state that nobody announces to a test: another thread's, another process's."""

import time
from collections.abc import Callable

# Nothing a test waits for takes longer, on a machine that does other things too.
PATIENCE = 30.0
_POLL = 0.01


def eventually(condition: Callable[[], object], within: float = PATIENCE) -> None:
    """Return once `condition()` holds. Raises AssertionError when it does not in time."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(_POLL)
