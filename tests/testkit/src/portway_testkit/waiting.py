"""Waiting for a state that nobody announces to a test: another thread's, another process's."""

import time
from collections.abc import Callable

# Nothing a test waits for takes longer, on a machine that does other things too.
PATIENCE = 30.0
_POLL = 0.01


def eventually(condition: Callable[[], object], *, shown: Callable[[], object] | None = None) -> None:
    """Return once `condition()` holds. Raises AssertionError when it does not in time, with what `shown` gives then."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it never came to be: {shown() if shown is not None else ''}"
        time.sleep(_POLL)
