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


def counting_sleep() -> float:
    """Seconds of a clock that never goes back and also counts while the machine sleeps, where the system has one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class RegistryClock:
    """The registry's time: what it said last, continued on a clock that counts time asleep; before that this machine's.

    What is signed and believed goes by it, so that a wrong clock of one machine does no harm.
    """

    def __init__(self, wall_clock: WallClock = wall_clock, elapsed: Monotonic = counting_sleep) -> None:
        self._wall_clock = wall_clock
        self._elapsed = elapsed
        self._base: float | None = None  # the registry's time in milliseconds when `elapsed` was 0

    def set(self, registry_time_ms: int) -> None:
        """A registry has said that it is this time now, in milliseconds since the Unix epoch; 0 says nothing."""
        if registry_time_ms > 0:
            self._base = registry_time_ms - self._elapsed() * 1000

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        if self._base is None:
            return int(self._wall_clock() * 1000)
        return int(self._base + self._elapsed() * 1000)


def utc_now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)
