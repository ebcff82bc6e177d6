"""Turns of connections that wait for a handshake: at a pace, and shared by prefix.

Whoever has many connections, or many addresses of few prefixes, waits behind itself.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from portway_runtime.rates import address_prefixes

T = TypeVar("T")
_Prefix = str | bytes


class FairQueue(Generic[T]):
    """Items by address. `pop` goes round the widest prefixes, within one round its longer ones, and so on; items of
    one address come in the order of their arrival. Every call takes constant time.

    Prefixes are those of `portway_runtime.rates.address_prefixes`.
    """

    def __init__(self) -> None:
        self._root: _Branch[T] = _Branch()
        self._paths: dict[T, tuple[_Prefix, ...]] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[T]:
        """A snapshot, in the order of arrival."""
        return iter(list(self._paths))

    def push(self, item: T, address: str) -> None:
        """Add an item, which must not be there yet."""
        path = self._paths[item] = address_prefixes(address)
        branch = self._root
        for prefix in path:
            branch = branch.longer.setdefault(prefix, _Branch())
        branch.items[item] = None

    def pop(self) -> T:
        """Remove the item whose turn it is, and return it. Raises IndexError when there is none."""
        if not self._paths:
            raise IndexError("no item waits")
        branch = self._root
        while branch.longer:
            prefix = next(iter(branch.longer))
            following = branch.longer[prefix] = branch.longer.pop(prefix)  # the last in the next round
            branch = following
        item = next(iter(branch.items))
        self.discard(item)
        return item

    def discard(self, item: T) -> None:
        """Remove an item, if it is there."""
        path = self._paths.pop(item, None)
        if path is None:
            return
        branches = [self._root]
        for prefix in path:
            branches.append(branches[-1].longer[prefix])
        del branches[-1].items[item]
        for branch, prefix, following in zip(branches[-2::-1], path[::-1], branches[:0:-1], strict=True):
            if following.items or following.longer:
                break
            del branch.longer[prefix]


class _Branch(Generic[T]):
    """A prefix: the next longer ones in it that have items, or the items of an address."""

    __slots__ = ("items", "longer")

    def __init__(self) -> None:
        self.longer: dict[_Prefix, _Branch[T]] = {}
        self.items: dict[T, None] = {}
