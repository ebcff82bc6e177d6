"""Rate limits: token buckets, token buckets per key, and turns for callers that arrive all at once.

Memory is bounded: the least recently used key is evicted first, and has a full bucket when it returns.
"""

import ipaddress
from collections.abc import Hashable
from functools import lru_cache
from typing import Final, Generic, TypeVar

from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic

K = TypeVar("K", bound=Hashable)

# About 10 MB of buckets. Counting addresses does not stop an attack from more addresses than this.
ADDRESSES: Final = 65_536
# Addresses whose prefixes are remembered: each connection asks a few times, and parsing an IPv6 address takes 6 µs.
_REMEMBERED: Final = 4_096


class TokenBucket:
    """Token bucket: `burst` tokens at once, then `rate` tokens per second."""

    __slots__ = ("_burst", "_clock", "_left", "_rate", "_seen")

    def __init__(self, rate: float, burst: float, clock: Monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._seen = clock()

    def take(self, cost: float = 1) -> bool:
        """Take `cost` tokens; False, with none taken, when there are fewer."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if self._left < cost:
            return False
        self._left -= cost
        return True

    def charge(self, cost: float) -> float:
        """Take `cost` tokens, also those that are not there yet. Returns the seconds until they are; 0 means now."""
        if not self.take(cost):
            self._left -= cost
        return max(0.0, -self._left / self._rate)

    def take_or_wait(self, cost: float) -> float:
        """Take `cost` tokens and return 0; or take none and return the seconds, above 0, until there are enough."""
        return 0.0 if self.take(cost) else (cost - self._left) / self._rate

    @property
    def left(self) -> float:
        """The tokens that can be taken now; below 0 what was charged in advance."""
        self.take(0)
        return self._left

    def give_back(self) -> None:
        """Return one token that was taken."""
        self._left = min(self._burst, self._left + 1)

    @property
    def wait(self) -> float:
        """Seconds until one token can be taken; 0 means now."""
        return max(0.0, (1 - self._left) / self._rate - (self._clock() - self._seen))


class Turns:
    """Turns for callers that arrive all at once: `burst` now, then `rate` per second, one after another."""

    def __init__(self, rate: float, burst: float, clock: Monotonic) -> None:
        self._bucket = TokenBucket(rate, burst, clock)
        self._rate = rate
        self._clock = clock
        self._last = 0.0  # the time of the latest turn

    def take(self) -> float:
        """Seconds until the caller's turn; 0 means now. Later callers get later turns."""
        if self._bucket.take():
            return 0.0
        now = self._clock()
        self._last = max(self._last, now) + 1 / self._rate
        return self._last - now


class KeyedRate(Generic[K]):
    """A token bucket for each key, for at most `capacity` keys."""

    def __init__(self, rate: float, burst: float, clock: Monotonic, capacity: int) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: BoundedMap[K, TokenBucket] = BoundedMap(capacity)

    def __len__(self) -> int:
        """The number of keys that have a bucket."""
        return len(self._buckets)

    def take(self, key: K) -> bool:
        """Take one token of this key; False if it has none."""
        return self._bucket(key).take()

    def take_or_wait(self, key: K, cost: float) -> float:
        """As TokenBucket.take_or_wait, of this key's bucket."""
        return self._bucket(key).take_or_wait(cost)

    def charge(self, key: K, cost: float) -> float:
        """As TokenBucket.charge, of this key's bucket."""
        return self._bucket(key).charge(cost)

    def give_back(self, key: K) -> None:
        """Return one token of this key."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            bucket.give_back()

    def _bucket(self, key: K) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst, self._clock)
        else:
            self._buckets.move_to_end(key)
        return bucket


class AddressRate:
    """A token bucket for each IPv4 address and each IPv6 /64, which is what one customer of a provider has."""

    def __init__(self, rate: float, burst: float, clock: Monotonic, capacity: int = ADDRESSES) -> None:
        self._rates: KeyedRate[str | bytes] = KeyedRate(rate, burst, clock, capacity)

    def __len__(self) -> int:
        """The number of addresses that have a bucket."""
        return len(self._rates)

    def take(self, address: str) -> bool:
        """Take one token of this address; False when it has none."""
        return self._rates.take(address_key(address))

    def give_back(self, address: str) -> None:
        """Return one token of this address."""
        self._rates.give_back(address_key(address))


@lru_cache(_REMEMBERED)
def address_prefixes(address: str) -> tuple[str | bytes, ...]:
    """The prefixes that an address belongs to, the widest first: the /24 of an IPv4 address and the address itself, or
    the /48, /56 and /64 of an IPv6 address. Whoever has many addresses has them in few of the widest ones."""
    key = address_key(address)
    if isinstance(key, bytes):
        return key[:6], key[:7], key
    return key.rpartition(".")[0], key


@lru_cache(_REMEMBERED)
def address_key(address: str) -> str | bytes:
    """The key that an address is counted by: an IPv4 address itself, or the /64 of an IPv6 address."""
    return ipaddress.IPv6Address(address.partition("%")[0]).packed[:8] if ":" in address else address
