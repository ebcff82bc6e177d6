"""Facts that repeat: each is told at once, then less and less often, with the number of times that it was seen."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic

# Seconds between two lines of one fact: the first ones, and what they grow to, doubling, while it goes on.
_INTERVAL: Final = 60.0
_LONGEST_INTERVAL: Final = 3_600.0
# Facts that are remembered; of more, those that were not seen for the longest time are told again too soon.
_CAPACITY: Final = 256

T = TypeVar("T")


@dataclass(slots=True)
class _Fact(Generic[T]):
    due: float  # when it may be told again
    interval: float
    untold: int  # how often it was seen since it was told
    last: T


class Repeated(Generic[T]):
    """Decides when a fact that repeats is told. Any hashable value is a fact; `T` is what is told of it."""

    def __init__(self, clock: Monotonic, *, interval: float = _INTERVAL, capacity: int = _CAPACITY) -> None:
        """interval: seconds between the first two lines of one fact. capacity: facts that are remembered."""
        self._clock = clock
        self._interval = interval
        self._facts = BoundedMap[Hashable, _Fact[T]](capacity)
        self._next_due = float("inf")  # no count is overdue before

    def seen(self, fact: Hashable, last: T) -> int:
        """Count the fact once. Returns how often it was seen since it was told last, this time included, when it is to
        be told now; 0 when it is not: `overdue` gives `last` and the count then, if it is not seen again."""
        now = self._clock()
        known = self._facts.get(fact)
        if known is None or now >= known.due:
            untold = 0 if known is None else known.untold
            interval = self._longer(known) if known is not None and known.untold else self._interval
            self._facts[fact] = _Fact(now + interval, interval, 0, last)
            return untold + 1
        known.untold += 1
        known.last = last
        self._facts.move_to_end(fact)
        self._next_due = min(self._next_due, known.due)
        return 0

    def overdue(self) -> list[tuple[T, int]]:
        """What was not told of facts whose time has come: what was seen last of each, and how often. They count as told
        now."""
        now = self._clock()
        if now < self._next_due:
            return []
        told = []
        for known in self._facts.values():
            if known.untold and now >= known.due:
                told.append((known.last, known.untold))
                known.interval = self._longer(known)
                known.due, known.untold = now + known.interval, 0
        self._next_due = min((known.due for known in self._facts.values() if known.untold), default=float("inf"))
        return told

    def untold(self) -> list[tuple[T, int]]:
        """As `overdue`, of every fact: for the end, when nothing is told later."""
        told = [(known.last, known.untold) for known in self._facts.values() if known.untold]
        self._facts.clear()
        return told

    def _longer(self, known: _Fact[T]) -> float:
        return min(2 * known.interval, max(self._interval, _LONGEST_INTERVAL))
