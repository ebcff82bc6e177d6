"""How fast one may come: token buckets, for one session's requests and for each address's connections; turns for
clients that come all at once.

Memory is bounded: an address that has not been heard of for longest is forgotten first, which is in its favour.
"""

import ipaddress
from collections import OrderedDict
from typing import Final

from portway_runtime.clocks import Monotonic

# About 10 MB; an attack from more addresses than this is not stopped by counting addresses.
_REMEMBERED: Final = 65_536


class Bucket:
    """So many at once, so many a second after that."""

    __slots__ = ("_burst", "_clock", "_left", "_rate", "_seen")

    def __init__(self, rate: float, burst: float, clock: Monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._seen = clock()

    def take(self, cost: float = 1) -> bool:
        """Whether one more, or what costs so much, is within the limit; it is counted then."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if self._left < cost:
            return False
        self._left -= cost
        return True

    def give_back(self) -> None:
        """What was taken last is not counted after all."""
        self._left = min(self._burst, self._left + 1)

    @property
    def wait(self) -> float:
        """Seconds until one more would be within the limit."""
        return max(0.0, (1 - self._left) / self._rate - (self._clock() - self._seen))

    def take_or_wait(self, cost: float) -> float:
        """0 when what costs so much is within the limit, and it is counted then. Else in so many seconds: never 0,
        however soon that is."""
        return 0.0 if self.take(cost) else (cost - self._left) / self._rate


class Turns:
    """So many at once, so many a second after that; whoever comes too early is told when its turn is."""

    def __init__(self, rate: float, burst: float, clock: Monotonic) -> None:
        self._bucket = Bucket(rate, burst, clock)
        self._rate = rate
        self._clock = clock
        self._last = 0.0  # the last turn that somebody was told

    def take(self) -> float:
        """0: now. Else in so many seconds, each who asks later than the one before."""
        if self._bucket.take():
            return 0.0
        now = self._clock()
        self._last = max(self._last, now) + 1 / self._rate
        return self._last - now


class AddressRate:
    """A bucket for each IPv4 address and each IPv6 /64: what one customer of a provider has."""

    def __init__(self, rate: float, burst: float, clock: Monotonic, remembered: int = _REMEMBERED) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._remembered = remembered
        self._buckets: OrderedDict[str | bytes, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, address: str) -> bool:
        """Whether a connection from `address` is within the limit."""
        key = address_key(address)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate, self._burst, self._clock)
            if len(self._buckets) > self._remembered:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take()

    def give_back(self, address: str) -> None:
        """What was taken last for `address` is not counted after all."""
        bucket = self._buckets.get(address_key(address))
        if bucket is not None:
            bucket.give_back()


def address_key(address: str) -> str | bytes:
    """What stands for everybody who may be behind an address: itself, or its IPv6 /64."""
    return ipaddress.IPv6Address(address.partition("%")[0]).packed[:8] if ":" in address else address
