"""Facts that repeat, and what is logged of them: each at once, then once a minute with the number of times."""

from collections.abc import Hashable
from typing import Final

from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic

_INTERVAL: Final = 60.0
# Facts that are remembered; of more, those that were not seen for the longest time are logged again too soon.
_CAPACITY: Final = 256


class Repeated:
    """Decides when a fact that repeats is logged. Any hashable value is a fact."""

    def __init__(self, clock: Monotonic, *, interval: float = _INTERVAL, capacity: int = _CAPACITY) -> None:
        """interval: seconds between two log lines of one fact. capacity: facts that are remembered."""
        self._clock = clock
        self._interval = interval
        # When it is due again, and how often it was seen since it was logged.
        self._facts = BoundedMap[Hashable, tuple[float, int]](capacity)

    def seen(self, fact: Hashable) -> int:
        """Count the fact once. Returns how often it was seen since it was logged last, this time included, when it is
        to be logged now; 0 when it is not."""
        now = self._clock()
        due, times = self._facts.get(fact, (now, 0))
        if now < due:
            self._facts[fact] = due, times + 1
            return 0
        self._facts[fact] = now + self._interval, 0
        return times + 1
