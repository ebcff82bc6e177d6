"""The tunnels of a run and what their visitors may get: rules only, no sockets.

Here: the life of each tunnel, which tunnel a visitor picks, what is a violation. Not here: visits (visitors.py), the
clients that come and go (guests.py).
"""

import math
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from portway_lab.cluster.clients import NamedTunnel

_REMEMBERED: Final = 12  # closed tunnels that are still visited: those of the last minute or two
_SHARE_OF_CLOSED: Final = 0.2  # of all visits
_SHARE_OF_RAW: Final = 0.5  # of visits of a tunnel that has a raw port


class Got(Enum):
    """What a visitor got."""

    OWN = "its tunnel's own bytes"
    FOREIGN = "bytes that are not its tunnel's"
    HOSTILE = "the hostile node's own answer"
    NOTHING = "no answer, or not all of it"


@dataclass(frozen=True, slots=True)
class Visit:
    """A visit that has ended; `began` is before it connected. `reason` says what went wrong.

    in_its_hands: the hostile node lied meanwhile, and may have answered itself: the visitor came to it, or the tunnel's
    client had placed the tunnel there.
    """

    raw: bool
    node: str
    began: float
    ended: float
    got: Got
    reason: str = ""
    in_its_hands: bool = False


@dataclass(slots=True)
class Life:
    """Times of one tunnel, in seconds of the ledger's clock; infinite for what has not happened.

    `released`: its client was told to close it, or was killed. `ended`: that client has ended. `port_lost`: its client
    has logged that no node could give it its raw port again, which is allowed (docs/decisions, on raw ports).
    """

    tunnel: NamedTunnel
    released: float = math.inf
    ended: float = math.inf
    port_lost: float = math.inf

    @property
    def port_released(self) -> float:
        """When its raw port began to rest."""
        return min(self.released, self.port_lost)

    def violation(self, visit: Visit, rest: float) -> str:
        """What must never happen, or "". A released raw port is given to no other tunnel for `rest` seconds."""
        name = f"{self.tunnel.name}{' (raw)' if visit.raw else ''} at {visit.node}"
        if visit.got is Got.HOSTILE and not visit.in_its_hands:
            return f"{name} is answered by the hostile node: {visit.reason}"
        if visit.got is Got.FOREIGN and not (visit.raw and visit.ended > self.port_released + rest):
            since = visit.ended - self.released
            return f"{name}, {f'released {since:.1f} s ago' if since > 0 else 'open'}: {visit.reason}"
        if visit.got is Got.OWN and visit.began > self.ended:
            return f"{name} answers {visit.began - self.ended:.1f} s after its client ended"
        return ""


class Ledger:
    """Every tunnel of the run. Thread-safe."""

    def __init__(self, rest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rest = rest
        self._clock = clock
        self._lock = threading.Lock()
        self._lives: dict[str, Life] = {}

    def opened(self, tunnels: Iterable[NamedTunnel]) -> None:
        with self._lock:
            self._lives |= {tunnel.name: Life(tunnel) for tunnel in tunnels}

    def released(self, names: Iterable[str], at: float) -> None:
        """Note that their client is about to be told to close them, or killed."""
        with self._lock:
            for name in names:
                self._lives[name].released = at

    def ended(self, names: Iterable[str]) -> None:
        """Note that their client has ended."""
        now = self._clock()
        with self._lock:
            for name in names:
                life = self._lives[name]
                life.released, life.ended = min(life.released, now), now

    def lost_ports(self, ports: Iterable[int]) -> None:
        """Note which raw ports the clients' logs name as lost now; a port that is not among them has been regained."""
        lost, now = set(ports), self._clock()
        with self._lock:
            for life in self._lives.values():
                if life.tunnel.raw_port not in lost:
                    life.port_lost = math.inf
                elif life.released == math.inf:
                    life.port_lost = min(life.port_lost, now)

    def without_port(self) -> list[str]:
        """Names of open tunnels that have lost their raw address."""
        with self._lock:
            return [life.tunnel.name for life in self._lives.values() if life.port_lost < life.released == math.inf]

    def open_now(self) -> list[NamedTunnel]:
        with self._lock:
            return [life.tunnel for life in self._lives.values() if life.released == math.inf]

    def closed(self) -> list[Life]:
        """The tunnels that ended last."""
        with self._lock:
            return [life for life in self._lives.values() if life.ended < math.inf][-_REMEMBERED:]

    def may_be_reassigned(self, life: Life) -> bool:
        """Whether its raw port has rested, so that it may be another tunnel's."""
        return self._clock() > life.port_released + self.rest

    def pick(self, rng: random.Random) -> tuple[Life, bool]:
        """A tunnel to visit, and whether at its raw port."""
        closed = self.closed()
        if closed and rng.random() < _SHARE_OF_CLOSED:
            life = rng.choice(closed)
        else:
            with self._lock:
                life = rng.choice([one for one in self._lives.values() if one.ended == math.inf])
        raw = life.tunnel.raw_port > 0 and rng.random() < _SHARE_OF_RAW and not self.may_be_reassigned(life)
        return life, raw
