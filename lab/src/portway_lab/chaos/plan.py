"""What goes wrong and when: a pure function of a seed and a duration.

Here: the parts, the kinds of faults, the plan. Not here: doing any of it (stage.py).
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What is done to a part, until it is taken back."""

    KILL = "kill"  # SIGKILL; started again
    RESTART = "restart"  # SIGTERM; started again
    PAUSE = "pause"  # SIGSTOP: sockets stay open, nothing answers; SIGCONT
    DRAIN = "drain"  # portway-admin node drain; serve
    PARTITION = "partition"  # no packet between two places
    DEAF = "deaf"  # none from the first to the second; the other way they pass
    OPEN = "open"  # a client comes and opens tunnels; SIGTERM: it closes them in order
    VANISH = "vanish"  # the same; SIGKILL: it says nothing


NODES: Final = ("fra", "fra-2", "iad", "nrt")
REGISTRIES: Final = ("registry", "registry-2")
ETCD: Final = "etcd"
CLIENTS: Final = ("client", "client-2")
GUESTS: Final = ("guest", "guest-2", "guest-3")  # clients that come and go

_NODE_KINDS: Final = (Kind.KILL, Kind.RESTART, Kind.PAUSE, Kind.DRAIN)
_OTHER_KINDS: Final = (Kind.KILL, Kind.PAUSE)
_CUTS: Final = (Kind.PARTITION, Kind.PARTITION, Kind.DEAF)
_GUEST_KINDS: Final = (Kind.OPEN, Kind.VANISH)
# One every so many seconds on average, each for so long: some are shorter than any time-out, some longer than the
# ten seconds of silence and the fifteen of a lease.
_EVERY: Final = 1.5
_SHORTEST, _LONGEST = 0.5, 20.0
# In less, a program has hardly begun.
_SHORTEST_STAY: Final = 2.0
# More at once, and nothing would be left to go wrong. Guests do not count: they take nothing away.
_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """`at` and `until` are seconds from the beginning. `other` is the second place of a cut."""

    at: float
    until: float
    kind: Kind
    part: str
    other: str = ""

    def __str__(self) -> str:
        target = f"{self.part} – {self.other}" if self.other else self.part
        return f"{self.at:6.1f} s to {self.until:6.1f} s  {self.kind:<9} {target}"


def make_plan(seed: int, seconds: float) -> tuple[Fault, ...]:
    """Ordered by beginning; every fault is taken back by the end. Two never hit one part at a time."""
    lot = random.Random(f"chaos {seed} {seconds:g}")
    faults: list[Fault] = []
    at = 0.0
    while True:
        at += lot.expovariate(1 / _EVERY)
        if at > seconds - _SHORTEST:
            return tuple(faults)
        kind, part, other = _target(lot)
        shortest = _SHORTEST_STAY if kind in _GUEST_KINDS else _SHORTEST
        until = min(seconds, at + shortest + (_LONGEST - shortest) * lot.random() ** 2)
        fault = Fault(round(at, 2), round(until, 2), kind, part, other)
        now = [running for running in faults if running.until >= fault.at]
        harm = sum(running.kind not in _GUEST_KINDS for running in now)
        if (kind in _GUEST_KINDS or harm < _AT_ONCE) and not any(_touch(running, fault) for running in now):
            faults.append(fault)


def counts(faults: Iterable[Fault]) -> dict[str, int]:
    """How many of each kind, by what they are done to: `kill node`, `open guest`, `partition`."""
    found = Counter(f"{fault.kind} {_sort(fault)}".rstrip() for fault in faults)
    return dict(sorted(found.items()))


def _sort(fault: Fault) -> str:
    if fault.other:
        return ""
    if fault.part in NODES:
        return "node"
    return fault.part.partition("-")[0]


def _target(lot: random.Random) -> tuple[Kind, str, str]:
    """More often a node than anything else."""
    draw = lot.random()
    if draw < 0.4:
        return lot.choice(_NODE_KINDS), lot.choice(NODES), ""
    if draw < 0.52:
        return lot.choice(_OTHER_KINDS), lot.choice((*REGISTRIES, ETCD)), ""
    if draw < 0.72:
        return lot.choice(_GUEST_KINDS), lot.choice(GUESTS), ""
    one = lot.choice(NODES)
    other = lot.choice([part for part in (*NODES, *REGISTRIES, *CLIENTS, *GUESTS) if part != one])
    source, target = lot.sample((one, other), 2)
    return lot.choice(_CUTS), source, target


def _touch(one: Fault, other: Fault) -> bool:
    """Whether taking one back would undo the other: same part, or same pair of places."""
    if bool(one.other) != bool(other.other):
        return False
    return {one.part, one.other} == {other.part, other.other}
