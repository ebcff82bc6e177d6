"""The types of injected clocks, and the real ones. Code that decides by time takes a clock as an argument."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

# Seconds of a clock that never goes back: for time limits and pauses.
Monotonic = Callable[[], float]
# Seconds since the Unix epoch: for times that are exchanged with other machines.
WallClock = Callable[[], float]
# The current time as a datetime in UTC: for certificates.
UtcNow = Callable[[], datetime]

monotonic: Monotonic = time.monotonic
wall_clock: WallClock = time.time


def utc_now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)
