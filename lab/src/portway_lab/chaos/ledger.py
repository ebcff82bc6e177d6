"""Which tunnels there are and were, and what a visitor of each may get: the rules, without a socket.

Here: the life of each tunnel, whom a visitor picks, what is a violation. Not here: visits (visiting.py), the clients
that come and go (guests.py).
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

# Of those that were closed, so many are visited on: all of a minute or two.
_REMEMBERED: Final = 12
_OF_CLOSED: Final = 0.2
_OF_RAW: Final = 0.5


class Got(Enum):
    """What a visitor got."""

    OWN = "its tunnel's own bytes"
    OTHERS = "somebody else's bytes"
    NOTHING = "nothing, or not all of it"


@dataclass(frozen=True, slots=True)
class Visit:
    """One that is over; `began` before it connected. `said` is what went wrong, in words."""

    raw: bool
    node: str
    began: float
    ended: float
    got: Got
    said: str = ""


@dataclass(slots=True)
class Life:
    """A tunnel. `let_go` is when its client was told to close it, or was killed; `ended` when that client was gone.

    `port_lost` is when its client said that no node could give it its raw port again, which may be (decision 9).
    """

    tunnel: NamedTunnel
    let_go: float = math.inf
    ended: float = math.inf
    port_lost: float = math.inf

    @property
    def port_left(self) -> float:
        """Since when its raw port rests."""
        return min(self.let_go, self.port_lost)

    def violation(self, visit: Visit, rest: float) -> str:
        """What must never be; empty when all is well. A raw port that is let go is nobody else's for `rest` seconds."""
        name = f"{self.tunnel.name}{' (raw)' if visit.raw else ''} at {visit.node}"
        if visit.got is Got.OTHERS and not (visit.raw and visit.ended > self.port_left + rest):
            since = visit.ended - self.let_go
            return f"{name}, {f'let go {since:.1f} s ago' if since > 0 else 'open'}: {visit.said}"
        if visit.got is Got.OWN and visit.began > self.ended:
            return f"{name} answers {visit.began - self.ended:.1f} s after its client ended"
        return ""


class Ledger:
    """Every tunnel of the run; used from any thread."""

    def __init__(self, rest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rest = rest
        self._clock = clock
        self._lock = threading.Lock()
        self._lives: dict[str, Life] = {}

    def opened(self, tunnels: Iterable[NamedTunnel]) -> None:
        with self._lock:
            self._lives |= {tunnel.name: Life(tunnel) for tunnel in tunnels}

    def let_go(self, names: Iterable[str], at: float) -> None:
        """Before their client is told."""
        with self._lock:
            for name in names:
                self._lives[name].let_go = at

    def ended(self, names: Iterable[str]) -> None:
        """Their client is gone."""
        now = self._clock()
        with self._lock:
            for name in names:
                life = self._lives[name]
                life.let_go, life.ended = min(life.let_go, now), now

    def lost_ports(self, ports: Iterable[int]) -> None:
        """Which raw ports their clients say that they are without now; no longer those that they have again."""
        lost, now = set(ports), self._clock()
        with self._lock:
            for life in self._lives.values():
                if life.tunnel.raw_port not in lost:
                    life.port_lost = math.inf
                elif life.let_go == math.inf:
                    life.port_lost = min(life.port_lost, now)

    def without_port(self) -> list[str]:
        """Names of open tunnels whose raw address is lost."""
        with self._lock:
            return [life.tunnel.name for life in self._lives.values() if life.port_lost < life.let_go == math.inf]

    def open_now(self) -> list[NamedTunnel]:
        with self._lock:
            return [life.tunnel for life in self._lives.values() if life.let_go == math.inf]

    def closed(self) -> list[Life]:
        """Those that ended last."""
        with self._lock:
            return [life for life in self._lives.values() if life.ended < math.inf][-_REMEMBERED:]

    def may_be_anothers(self, life: Life) -> bool:
        """Whether its raw port has rested."""
        return self._clock() > life.port_left + self.rest

    def pick(self, lot: random.Random) -> tuple[Life, bool]:
        """Whom to visit, and whether at its raw port."""
        closed = self.closed()
        if closed and lot.random() < _OF_CLOSED:
            life = lot.choice(closed)
        else:
            with self._lock:
                life = lot.choice([one for one in self._lives.values() if one.ended == math.inf])
        raw = life.tunnel.raw_port > 0 and lot.random() < _OF_RAW and not self.may_be_anothers(life)
        return life, raw
