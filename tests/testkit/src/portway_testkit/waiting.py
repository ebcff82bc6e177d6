"""Waiting for a state of another thread or process that nothing announces."""

import time
from collections.abc import Callable

PATIENCE = 30.0  # seconds: more than anything that a test waits for takes on a busy machine
_POLL = 0.01


def eventually(
    condition: Callable[[], object], *, within: float = PATIENCE, shown: Callable[[], object] | None = None
) -> None:
    """Return once `condition()` is true. After `within` seconds raises AssertionError, with the value of `shown()`."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"the condition never became true: {shown() if shown is not None else ''}"
        time.sleep(_POLL)
