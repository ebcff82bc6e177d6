"""The types of injected clocks, and the real ones. Code that decides by time takes a clock as an argument."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

# Seconds that never go back: for limits and pauses.
Monotonic = Callable[[], float]
# Seconds since the Unix epoch: for what other machines signed or will read.
WallClock = Callable[[], float]
# The same as a datetime in UTC: for certificates.
UtcNow = Callable[[], datetime]

monotonic: Monotonic = time.monotonic
wall_clock: WallClock = time.time


def utc_now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)
