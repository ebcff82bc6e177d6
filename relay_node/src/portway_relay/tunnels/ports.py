"""Which raw TCP ports are free: a pure account of a range, without a socket.

A port that is let go rests: whoever still has its old address in hand must not reach somebody else's tunnel. To the
label that had it, it is free at once.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from portway_relay.clock import Monotonic
from portway_relay.config import PortRange

# Random tries before the range is searched: with nine ports of ten taken, all of these miss once in a thousand times.
_RANDOM_TRIES: Final = 64


@dataclass(frozen=True, slots=True)
class _Rest:
    label: str
    until: float


class PortAccount:
    """The ports of a range: held by a label, resting, or free."""

    def __init__(self, ports: PortRange, rest: float, clock: Monotonic, chance: random.Random | None = None) -> None:
        self._ports = ports
        self._rest = rest
        self._clock = clock
        # Not a secret, but not to be guessed from the last one either.
        self._chance = chance or random.SystemRandom()
        self._held: dict[int, str] = {}
        self._resting: dict[int, _Rest] = {}

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def resting(self) -> int:
        self._wake()
        return len(self._resting)

    @property
    def range(self) -> PortRange:
        return self._ports

    def candidates(self, label: str, wanted: int | None) -> Iterator[int]:
        """Ports that this label may have, each once: the wanted one first, then at random, then all."""
        self._wake()
        offered: set[int] = set()
        for port in self._order(wanted):
            if port not in offered and self._may_have(port, label):
                offered.add(port)
                yield port

    def _order(self, wanted: int | None) -> Iterator[int]:
        if wanted is not None:
            yield wanted
        for _ in range(_RANDOM_TRIES):
            yield self._chance.randint(self._ports.first, self._ports.last)
        start = self._chance.randrange(len(self._ports))
        for offset in range(len(self._ports)):
            yield self._ports.first + (start + offset) % len(self._ports)

    def hold(self, port: int, label: str) -> None:
        """From now on it is this label's."""
        self._resting.pop(port, None)
        self._held[port] = label

    def let_go(self, port: int) -> None:
        """It rests from now on. No effect on one that is not held."""
        label = self._held.pop(port, None)
        if label is not None:
            self._resting[port] = _Rest(label, self._clock() + self._rest)

    def _may_have(self, port: int, label: str) -> bool:
        if port not in self._ports or port in self._held:
            return False
        rest = self._resting.get(port)
        return rest is None or rest.label == label

    def _wake(self) -> None:
        now = self._clock()
        # Insertion order is the order of their ends.
        while self._resting:
            port = next(iter(self._resting))
            if self._resting[port].until > now:
                return
            del self._resting[port]
