"""A map with a capacity, for state kept per peer."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


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
