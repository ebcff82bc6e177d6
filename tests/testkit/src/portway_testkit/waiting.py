"""Waiting for a state of another thread or process that nothing announces."""

import time
from collections.abc import Callable

PATIENCE = 30.0  # seconds: more than anything that a test waits for takes on a busy machine
_POLL = 0.01


def eventually(condition: Callable[[], object], *, shown: Callable[[], object] | None = None) -> None:
    """Return once `condition()` is true. After 30 s raises AssertionError, with the value of `shown()`."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"the condition never became true: {shown() if shown is not None else ''}"
        time.sleep(_POLL)
