"""Connections of which nothing is known yet, so many of them and no more: of one address, and in all.

Here: who makes room for whom. Not here: what is waited for (peek.py, sessions/greeter.py, mesh/arrivals.py).
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from portway_runtime.clocks import Monotonic
from portway_runtime.rates import address_key

T = TypeVar("T")


class HalfOpenConnections(Generic[T]):
    """In the order in which they came. At a limit the oldest makes room (of the same address, where it is that one's
    limit): who means to say something has said it, and a newcomer must not be shut out by those that wait for nothing.
    """

    def __init__(
        self,
        most: int,
        most_of_one: int,
        evict: Callable[[T], None],
        clock: Monotonic,
        *,
        patience: float = 0.0,
    ) -> None:
        """`evict` lets go of one that is not in the crowd any more. Nobody is evicted before it has been there for
        `patience` seconds: until then there is no room for newcomers instead."""
        self._most = most
        self._most_of_one = most_of_one
        self._evict = evict
        self._clock = clock
        self._patience = patience
        self._all: dict[T, tuple[str | bytes, float]] = {}
        self._of_one: dict[str | bytes, dict[T, None]] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, one: T) -> bool:
        return one in self._all

    def __iter__(self) -> Iterator[T]:
        """As it stands now; it may change meanwhile."""
        return iter(list(self._all))

    def add(self, one: T, address: str) -> bool:
        """False when there is no room for it."""
        key = address_key(address)
        same = self._of_one.get(key, {})
        oldest: T | None = None
        if len(same) >= self._most_of_one:
            oldest = next(iter(same))
        elif len(self._all) >= self._most:
            oldest = next(iter(self._all))
        if oldest is not None:
            if self._clock() - self._all[oldest][1] < self._patience:
                return False
            self.discard(oldest)
            self.evicted += 1
            self._evict(oldest)
        self._all[one] = (key, self._clock())
        self._of_one.setdefault(key, {})[one] = None
        return True

    def discard(self, one: T) -> None:
        """It has said who it is, or is gone."""
        found = self._all.pop(one, None)
        if found is not None:
            same = self._of_one[found[0]]
            del same[one]
            if not same:
                del self._of_one[found[0]]
