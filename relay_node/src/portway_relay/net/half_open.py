"""Half-open connections: those whose peer has not said yet what it wants, bounded in all and for each address.

Here: which connection is evicted when a limit is reached. Not here: what is waited for; the first bytes, a handshake or
a first frame.
"""

from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from portway_runtime.clocks import Monotonic
from portway_runtime.rates import address_key

T = TypeVar("T")

# Seconds without progress after which a handshake may be evicted: it has lost a packet at least.
STALLED_AFTER: Final = 2.0


class HalfOpenConnections(Generic[T]):
    """A set of connections in the order of their arrival, with a limit in all and one for each address.

    At a limit the oldest connection (of the same address, where that address is at its limit) is evicted to make room:
    a peer with something to send has sent it by then, and silent peers must not lock newcomers out.
    Addresses are counted as rate limits count them, an IPv6 /64 as one.
    """

    def __init__(
        self,
        capacity: int,
        capacity_per_address: int,
        evict: Callable[[T], None],
        clock: Monotonic,
        *,
        min_age: float = 0.0,
    ) -> None:
        """`evict` closes a connection, which is not in the set any more when it is called.

        min_age: seconds for which a connection cannot be evicted; newcomers are rejected meanwhile.
        """
        self._capacity = capacity
        self._capacity_per_address = capacity_per_address
        self._evict = evict
        self._clock = clock
        self._min_age = min_age
        self._all: dict[T, tuple[str | bytes, float]] = {}  # key of the address, time of arrival
        self._by_address: dict[str | bytes, dict[T, None]] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, connection: T) -> bool:
        return connection in self._all

    def __iter__(self) -> Iterator[T]:
        """A snapshot: the set may change meanwhile."""
        return iter(list(self._all))

    def add(self, connection: T, address: str) -> bool:
        """Add a connection, evicting one at a limit. False, with nothing changed, when there is no room."""
        key = address_key(address)
        same_address = self._by_address.get(key, {})
        oldest: T | None = None
        if len(same_address) >= self._capacity_per_address:
            oldest = next(iter(same_address))
        elif len(self._all) >= self._capacity:
            oldest = next(iter(self._all))
        if oldest is not None:
            if self._clock() - self._all[oldest][1] < self._min_age:
                return False
            self.discard(oldest)
            self.evicted += 1
            self._evict(oldest)
        self._all[connection] = (key, self._clock())
        self._by_address.setdefault(key, {})[connection] = None
        return True

    def discard(self, connection: T) -> None:
        """Remove a connection, if it is there: it is not half-open any more, or closed."""
        found = self._all.pop(connection, None)
        if found is not None:
            same_address = self._by_address[found[0]]
            del same_address[connection]
            if not same_address:
                del self._by_address[found[0]]
