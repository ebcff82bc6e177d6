"""Time, as the deciding code asks for it: injected, so that tests decide what time it is."""

import time
from collections.abc import Callable

# Seconds that only ever grow: for limits and pauses.
Monotonic = Callable[[], float]
# Seconds since the Unix epoch: for what other machines signed or will read.
WallClock = Callable[[], float]

monotonic: Monotonic = time.monotonic
wall_clock: WallClock = time.time
