"""Shares by prefix of address of what a process can spend on strangers, and a queue in which prefixes take turns.

Whoever has many addresses has them in few prefixes (`portway_runtime.rates.address_prefixes`). A prefix that has taken
much of what is scarce yields to one that has taken little; one that comes alone may take most of it. Not here: limits
of single addresses (rates.py), which connection makes room for another.
"""

import math
from typing import Final, Generic, TypeVar

from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import ADDRESSES, address_prefixes

T = TypeVar("T")
_Prefix = str | bytes

# A prefix may hold so many times what is free. With 4, one alone gets three quarters of all, several get equal parts of
# more than that, and what stays free serves those that come anew.
_OF_THE_FREE: Final = 4
# Units below which a prefix is forgotten.
_NOTHING: Final = 0.01


class PrefixShares:
    """`capacity` units that all addresses share. A unit is free again when it is given back; with a `window`, what is
    held also decays, to a third in that many seconds, so that capacity / window units per second can be taken.

    An address may take a unit while each of its prefixes, from the widest to itself, holds less than a multiple of what
    is free in the one around it: the dynamic thresholds by which switches share their buffers (Choudhury and Hahne,
    1998). Refused addresses change nothing, and no list of who asks is needed to give equal parts.
    """

    def __init__(
        self, capacity: float, clock: Monotonic, *, window: float = math.inf, first_is_free: bool = False
    ) -> None:
        """first_is_free: a widest prefix that holds less than one unit gets one even when none is free, so that many
        honest addresses that come together are not refused for each other."""
        self._capacity = capacity
        self._clock = clock
        self._window = window
        self._first_is_free = first_is_free
        self._all = _Held(clock())
        self._by_prefix: BoundedMap[_Prefix, _Held] = BoundedMap(ADDRESSES)

    @property
    def held(self) -> float:
        """Units that are not free."""
        return self._now(self._all)

    def has_room(self, address: str) -> bool:
        """Whether this address may take a unit now."""
        share = self._capacity
        free = share - self.held
        for depth, prefix in enumerate(address_prefixes(address)):
            found = self._by_prefix.get(prefix)
            held = self._now(found) if found is not None else 0.0
            if depth == 0 and self._first_is_free and held < 1:
                return True
            share = _OF_THE_FREE * free
            if held >= share:
                return False
            free = share - held
        return True

    def take(self, address: str) -> bool:
        """Take a unit; False, with nothing changed, when this address may take none now."""
        if not self.has_room(address):
            return False
        self._add(self._all, 1)
        for prefix in address_prefixes(address):
            held = self._by_prefix.get(prefix)
            if held is None:
                held = self._by_prefix[prefix] = _Held(self._clock())
            else:
                self._by_prefix.move_to_end(prefix)
            self._add(held, 1)
        return True

    def give_back(self, address: str) -> None:
        """Free a unit that this address took."""
        self._add(self._all, -1)
        for prefix in address_prefixes(address):
            held = self._by_prefix.get(prefix)
            if held is not None:
                self._add(held, -1)
                if held.units < _NOTHING:
                    del self._by_prefix[prefix]

    def _now(self, held: "_Held") -> float:
        now = self._clock()
        if now > held.at:
            held.units *= math.exp((held.at - now) / self._window)
            held.at = now
        return held.units

    def _add(self, held: "_Held", units: int) -> None:
        held.units = max(0.0, self._now(held) + units)


class _Held:
    __slots__ = ("at", "units")

    def __init__(self, at: float) -> None:
        self.units = 0.0
        self.at = at  # when `units` was right


class PrefixQueue(Generic[T]):
    """Items by address. `pop` goes round the widest prefixes, within one round its longer ones, and so on; items of
    one address come in the order of their arrival. Every call takes constant time.

    Items are hashable, each at most once.
    """

    def __init__(self) -> None:
        self._root: _Branch[T] = _Branch()
        self._paths: dict[T, tuple[_Prefix, ...]] = {}

    def __len__(self) -> int:
        return len(self._paths)

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
