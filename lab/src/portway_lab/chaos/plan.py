"""Which faults happen when: a pure function of a seed and a duration.

Here: the parts, the kinds of faults, the plan. Not here: carrying it out (stage.py).
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What is done to a part until the fault is undone."""

    KILL = "kill"  # SIGKILL; undone by a start
    RESTART = "restart"  # SIGTERM; undone by a start
    PAUSE = "pause"  # SIGSTOP: sockets stay open, nothing answers; SIGCONT
    DRAIN = "drain"  # portway-admin node drain; serve
    PARTITION = "partition"  # no packet passes between two places
    LIE = "lie"  # a node whose key was stolen says and does whatever the key allows; it is honest again
    DEAF = "deaf"  # packets pass from the second place to the first only
    OPEN = "open"  # a client opens tunnels; undone by SIGTERM: it closes them
    VANISH = "vanish"  # the same, undone by SIGKILL


HOSTILE: Final = "fra-3"  # a node like the others until it lies
REGIONS: Final = {"fra": "fra", "fra-2": "fra", HOSTILE: "fra", "iad": "iad", "nrt": "nrt"}  # of each node
NODES: Final = tuple(REGIONS)
REGISTRIES: Final = ("registry", "registry-2")
ETCD: Final = "etcd"
CLIENTS: Final = ("client", "client-2", "client-3")
GUESTS: Final = ("guest", "guest-2", "guest-3")  # clients that come and go

_NODE_KINDS: Final = (Kind.KILL, Kind.RESTART, Kind.PAUSE, Kind.DRAIN)
_OTHER_KINDS: Final = (Kind.KILL, Kind.PAUSE)
_CUTS: Final = (Kind.PARTITION, Kind.PARTITION, Kind.DEAF)
_GUEST_KINDS: Final = (Kind.OPEN, Kind.VANISH)
# What must harm nobody elsewhere.
_HARMLESS: Final = (*_GUEST_KINDS, Kind.LIE)
# Seconds between two faults on average, and how long each lasts: some shorter than any time-out, some longer than the
# 10 s of silence and the 15 s of a lease.
_EVERY: Final = 1.5
_SHORTEST, _LONGEST = 0.5, 20.0
_SHORTEST_STAY: Final = 2.0  # seconds of a guest, since a program takes one to start, and of lies
# Faults at the same time: with more of them nothing would be left that works. Guests and lies are not counted.
_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """`at` and `until` are seconds since the beginning. `other` is the second place of a cut."""

    at: float
    until: float
    kind: Kind
    part: str
    other: str = ""

    def __str__(self) -> str:
        target = f"{self.part} – {self.other}" if self.other else self.part
        return f"{self.at:6.1f} s to {self.until:6.1f} s  {self.kind:<9} {target}"


def make_plan(seed: int, seconds: float) -> tuple[Fault, ...]:
    """The faults by their beginning. All are undone by the end, and no two affect the same part at the same time."""
    rng = random.Random(f"chaos {seed} {seconds:g}")
    faults: list[Fault] = []
    at = 0.0
    while True:
        at += rng.expovariate(1 / _EVERY)
        if at > seconds - _SHORTEST:
            return tuple(faults)
        kind, part, other = _target(rng)
        shortest = _SHORTEST_STAY if kind in _HARMLESS else _SHORTEST
        until = min(seconds, at + shortest + (_LONGEST - shortest) * rng.random() ** 2)
        fault = Fault(round(at, 2), round(until, 2), kind, part, other)
        now = [running for running in faults if running.until >= fault.at]
        harm = sum(running.kind not in _HARMLESS for running in now)
        if (kind in _HARMLESS or harm < _AT_ONCE) and not any(_conflict(running, fault) for running in now):
            faults.append(fault)


def counts(faults: Iterable[Fault]) -> dict[str, int]:
    """How many of each kind, by what they are done to: `kill node`, `open guest`, `partition`."""
    found = Counter(f"{fault.kind} {_part_kind(fault)}".rstrip() for fault in faults)
    return dict(sorted(found.items()))


def _part_kind(fault: Fault) -> str:
    if fault.other:
        return ""
    if fault.part in NODES:
        return "node"
    return fault.part.partition("-")[0]


def _target(rng: random.Random) -> tuple[Kind, str, str]:
    """A kind and its part or parts; more often a node than anything else."""
    draw = rng.random()
    if draw < 0.08:
        return Kind.LIE, HOSTILE, ""
    if draw < 0.42:
        return rng.choice(_NODE_KINDS), rng.choice(NODES), ""
    if draw < 0.53:
        return rng.choice(_OTHER_KINDS), rng.choice((*REGISTRIES, ETCD)), ""
    if draw < 0.72:
        return rng.choice(_GUEST_KINDS), rng.choice(GUESTS), ""
    one = rng.choice(NODES)
    other = rng.choice([part for part in (*NODES, *REGISTRIES, *CLIENTS, *GUESTS) if part != one])
    source, target = rng.sample((one, other), 2)
    return rng.choice(_CUTS), source, target


def _conflict(one: Fault, other: Fault) -> bool:
    """Whether undoing one would undo the other: they have the same part, or the same pair of places."""
    if bool(one.other) != bool(other.other):
        return False
    return {one.part, one.other} == {other.part, other.other}
