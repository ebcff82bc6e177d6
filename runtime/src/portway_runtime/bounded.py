"""Maps with a capacity, for state kept per peer: one for all, and one with a share for each sender."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
S = TypeVar("S")


class BoundedMap(OrderedDict[K, V]):
    """At most `capacity` entries. Setting a key makes it the newest; above the capacity the oldest is evicted.

    A look-up does not change the order: call `move_to_end(key)` where a use should count (least recently used).
    """

    def __init__(self, capacity: int, evicted: Callable[[K, V], object] | None = None) -> None:
        """`evicted` is called with the key and the value of each evicted entry, after its removal."""
        super().__init__()
        self._capacity = capacity
        self._evicted = evicted

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self._capacity:
            oldest = next(iter(self))
            removed = self.pop(oldest)
            if self._evicted is not None:
                self._evicted(oldest, removed)


class Shares(Generic[S, K, V]):
    """What senders said, each with a share of its own: no sender can evict what another one said.

    At most `senders` of them are remembered; the one that has said nothing for the longest time is forgotten first.
    """

    def __init__(self, share: int, senders: int, evicted: Callable[[S, K, V], object] | None = None) -> None:
        """`share` is the largest number of keys of one sender. `evicted` is called with each entry that made room."""
        self._share = share
        self._by_sender: BoundedMap[S, BoundedMap[K, V]] = BoundedMap(senders, self._evict_sender)
        self._senders: dict[K, dict[S, None]] = {}  # of each key
        self._evicted = evicted

    def __len__(self) -> int:
        """The entries of all senders."""
        return sum(map(len, self._by_sender.values()))

    def put(self, sender: S, key: K, value: V) -> None:
        """Remember the sender's newest word on a key."""
        said = self._by_sender.get(sender)
        if said is None:
            said = BoundedMap(self._share, lambda key, value: self._evict(sender, key, value))
        self._by_sender[sender] = said
        self._senders.setdefault(key, {})[sender] = None
        said[key] = value

    def get(self, sender: S, key: K) -> V | None:
        """The sender's word on a key."""
        said = self._by_sender.get(sender)
        return None if said is None else said.get(key)

    def all(self, key: K) -> Iterator[tuple[S, V]]:
        """Every sender's word on a key."""
        for sender in self._senders.get(key, ()):
            yield sender, self._by_sender[sender][key]

    def of(self, sender: S) -> Iterator[tuple[K, V]]:
        """All that a sender said; it may be discarded meanwhile."""
        yield from list(self._by_sender.get(sender, {}).items())

    def discard(self, sender: S, key: K) -> None:
        """Forget a sender's word on a key."""
        said = self._by_sender.get(sender)
        if said is not None and key in said:
            del said[key]
            self._unlist(sender, key)

    def forget(self, sender: S) -> None:
        """Forget all that a sender said."""
        for key in self._by_sender.pop(sender, {}):
            self._unlist(sender, key)

    def _evict_sender(self, sender: S, said: BoundedMap[K, V]) -> None:
        for key, value in said.items():
            self._evict(sender, key, value)

    def _evict(self, sender: S, key: K, value: V) -> None:
        self._unlist(sender, key)
        if self._evicted is not None:
            self._evicted(sender, key, value)

    def _unlist(self, sender: S, key: K) -> None:
        senders = self._senders[key]
        del senders[sender]
        if not senders:
            del self._senders[key]
