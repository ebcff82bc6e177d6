"""The race between candidate nodes: which one is dialled when. Without clock or I/O.

The nodes are in the registry's order. The first is dialled at once, the second `stagger` seconds after it, each
further one STAGGER seconds after the one before, at most `racers` at a time. When a dial fails, the next node is
dialled at once. The node whose connection is ready first wins; if it refuses the session, the race goes on.

RaceRule is the rule; its caller dials and reports how each dial ends: real dials (dialling.py), or dials whose ends are
known beforehand (foreseen_race.py).
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

N = TypeVar("N")

RACERS: Final = 3
# Seconds. The registry's order is right most of the time: a first node that is within two round trips of this gets no
# rival, and one that was expected to be near and is not costs no more than this.
STAGGER: Final = 0.025
# Seconds. A SYN that is lost once is repeated after 1 s; a node that needs longer than this to connect is not worth
# waiting for.
DIAL_TIMEOUT: Final = 3.0


class RaceRule(Generic[N]):
    """One race. Every method takes the current time in seconds, of any clock that never goes back."""

    __slots__ = ("_dialling", "_next_at", "_racers", "_stagger", "_waiting")

    def __init__(self, nodes: Iterable[N], now: float, stagger: float = STAGGER, racers: int = RACERS) -> None:
        """`stagger`: seconds between the first dial and the second. `racers`: 1 dials a node only after a failure."""
        self._waiting = deque(nodes)
        self._racers = racers
        self._stagger = stagger
        self._next_at = now
        self._dialling = 0

    @property
    def over(self) -> bool:
        """Whether every node was dialled and every dial has ended."""
        return not self._waiting and not self._dialling

    @property
    def next_dial_at(self) -> float | None:
        """When the next node is to be dialled, if no dial ends before; None if that depends on a dial's end."""
        return self._next_at if self._waiting and self._dialling < self._racers else None

    def dial_next(self, now: float) -> N | None:
        """The node to dial now, which counts as dialled from now on; None if no node is due."""
        if not self._waiting or self._dialling >= self._racers or now < self._next_at:
            return None
        self._dialling += 1
        self._next_at, self._stagger = now + self._stagger, STAGGER
        return self._waiting.popleft()

    def ended(self, now: float, *, connected: bool) -> None:
        """A dial ended, with a connection or without."""
        self._dialling -= 1
        if not connected or not self._dialling:
            self._next_at = now
