"""Connections that may make room for others, bounded in all and for each address.

Most are half-open: their peers have not said yet what they want. The registry also keeps connections of known callers
so. Here: which connection is evicted when a limit is reached. Not here: what is waited for; the first bytes, a
handshake or a first frame.
"""

from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from portway_runtime.clocks import Monotonic
from portway_runtime.rates import address_prefixes

T = TypeVar("T")
_Prefix = str | bytes
_Path = tuple[_Prefix, ...]  # an address as its prefixes, the widest first

# Seconds without progress after which a handshake may be evicted: it has lost a packet at least.
STALLED_AFTER: Final = 2.0
# A prefix with so many times the connections of another one makes room for it at once. Fewer are chance when many
# honest clients come together, and each eviction wastes the handshake that was in progress.
_TOO_MANY: Final = 2


class HalfOpenConnections(Generic[T]):
    """A set of connections in the order of their arrival, with a limit in all and one for each address.

    At the limit in all, the widest prefix that holds most makes room, and within it the longer one that does, down to
    an address, of which the oldest connection is evicted: a peer with something to send has sent it by then. So silent
    peers cannot lock others out, however many addresses of few prefixes they have. An address at its own limit evicts
    its own oldest. Prefixes and addresses are those of `portway_runtime.rates.address_prefixes`.
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

        min_age: seconds for which a connection cannot be evicted for one of its own prefix, or of a prefix that holds
        about as many; such newcomers are rejected meanwhile.
        """
        self._capacity = capacity
        self._capacity_per_address = capacity_per_address
        self._evict = evict
        self._clock = clock
        self._min_age = min_age
        self._all: dict[T, tuple[_Path, float]] = {}  # address, time of arrival
        self._by_address: dict[_Path, dict[T, None]] = {}
        self._counts: dict[_Path, _Counts] = {}  # of the next longer prefixes in each prefix; () holds the widest
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
        path = address_prefixes(address)
        if len(self._by_address.get(path, ())) >= self._capacity_per_address:
            if not self._make_room(path, at_once=False):
                return False
        elif len(self._all) >= self._capacity and not self.evict_for(address):
            return False
        self._all[connection] = (path, self._clock())
        self._by_address.setdefault(path, {})[connection] = None
        for depth, prefix in enumerate(path):
            self._counts.setdefault(path[:depth], _Counts()).add(prefix)
        return True

    def evict_for(self, address: str) -> bool:
        """Evict the connection that makes room for one of this address. False when there is none."""
        if not self._all:
            return False
        fullest, at_once = self._fullest(address_prefixes(address))
        return self._make_room(fullest, at_once=at_once)

    def discard(self, connection: T) -> None:
        """Remove a connection, if it is there: it is not half-open any more, or closed."""
        found = self._all.pop(connection, None)
        if found is None:
            return
        path, _ = found
        same_address = self._by_address[path]
        del same_address[connection]
        if not same_address:
            del self._by_address[path]
        for depth, prefix in enumerate(path):
            counts = self._counts[path[:depth]]
            counts.remove(prefix)
            if not counts.most:
                del self._counts[path[:depth]]

    def _fullest(self, newcomer: _Path) -> tuple[_Path, bool]:
        """The address that makes room, and whether it does at once: where it parts from the newcomer's, its prefix
        holds too many."""
        path: _Path = ()
        at_once = False
        while path in self._counts:
            counts = self._counts[path]
            prefix = counts.fullest
            if path == newcomer[: len(path)] and prefix != newcomer[len(path)]:
                at_once = counts.most >= _TOO_MANY * (counts.of(newcomer[len(path)]) + 1)
            path = (*path, prefix)
        return path, at_once

    def _make_room(self, path: _Path, *, at_once: bool) -> bool:
        oldest = next(iter(self._by_address[path]))
        if not at_once and self._clock() - self._all[oldest][1] < self._min_age:
            return False
        self.discard(oldest)
        self.evicted += 1
        self._evict(oldest)
        return True


class _Counts:
    """How many connections some prefixes have, and which of them has most; every call in constant time."""

    __slots__ = ("_by_count", "_counts", "most")

    def __init__(self) -> None:
        self._counts: dict[_Prefix, int] = {}
        self._by_count: dict[int, dict[_Prefix, None]] = {}
        self.most = 0

    @property
    def fullest(self) -> _Prefix:
        """The prefix with most connections; of several the one that has had that many for the longest time."""
        return next(iter(self._by_count[self.most]))

    def of(self, prefix: _Prefix) -> int:
        return self._counts.get(prefix, 0)

    def add(self, prefix: _Prefix) -> None:
        count = self._move(prefix, 1)
        self.most = max(self.most, count)

    def remove(self, prefix: _Prefix) -> None:
        self._move(prefix, -1)
        if self.most not in self._by_count:
            self.most -= 1  # the prefix itself has one less now

    def _move(self, prefix: _Prefix, change: int) -> int:
        before = self._counts.pop(prefix, 0)
        if before:
            same = self._by_count[before]
            del same[prefix]
            if not same:
                del self._by_count[before]
        count = before + change
        if count:
            self._counts[prefix] = count
            self._by_count.setdefault(count, {})[prefix] = None
        return count
