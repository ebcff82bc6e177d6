"""What happens to nodes while clients come back to them all at once, and the counts of it.

Here: dials that are answered or not, handshakes one after the other, sessions taken or told to come later by the node's
own rule. Not here: what a client does next (returning.py), the order of events (region_death.py).
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from portway.engine.race_rule import DialEnd, no_answer
from portway_relay.config import NodeLimits

from portway_lab.simulation.assumptions import HANDSHAKE_ROUND_TRIPS, HANDSHAKE_SECONDS
from portway_lab.simulation.fleet import Fleet
from portway_lab.simulation.paths import seconds

NODE_LIMITS: Final = NodeLimits()


@dataclass(slots=True)
class Death:
    """What came of it. Times in seconds after the region fell silent; counts by whole seconds."""

    region: int
    moved: int = 0
    back: list[float] = field(default_factory=list)
    landed: Counter[int] = field(default_factory=Counter)  # by region
    before_ms: list[float] = field(default_factory=list)
    after_ms: list[float] = field(default_factory=list)
    locates: Counter[int] = field(default_factory=Counter)
    binds: Counter[int] = field(default_factory=Counter)
    deletes: Counter[int] = field(default_factory=Counter)  # tunnels that go with their node's lease
    busiest: Counter[int] = field(default_factory=Counter)  # sessions taken, by node
    dials_in_vain: int = 0  # nobody answered, or too late
    turned_away: int = 0  # by nodes with too many greetings
    postponed: int = 0  # told to come later, or elsewhere
    longest_queue: float = 0.0  # seconds of handshakes that waited at one node
    leases_ended: list[float] = field(default_factory=list)


class Storm:
    """The time it is, the nodes' work, and the account of one death."""

    def __init__(self, fleet: Fleet, death: Death, rng: random.Random) -> None:
        self._began = fleet.now
        self.fleet = fleet
        self.death = death
        self.rng = rng
        self.now = 0.0
        self._busy_until = [0.0] * len(fleet.nodes)

    def dial(self, number: int, now: float, round_trip_ms: float) -> DialEnd:
        """A client's dial: how it will end. A node that has too many greetings closes the connection."""
        if not self.fleet.nodes[number].alive:
            self.death.dials_in_vain += 1
            return no_answer(now)
        took = seconds(round_trip_ms, HANDSHAKE_ROUND_TRIPS, self.rng)
        arrives = now + 0.75 * took  # the ClientHello, after the connection's own round trip
        if self._busy_until[number] - arrives > NODE_LIMITS.max_greetings * HANDSHAKE_SECONDS:
            self.death.turned_away += 1
            return DialEnd(now + took, connected=False)
        ends = self.shake(number, arrives) + 0.25 * took
        if ends > no_answer(now).at:
            self.death.dials_in_vain += 1
        return DialEnd(ends, connected=True)

    def shake(self, number: int, arrives: float) -> float:
        """One handshake more, after those that wait, on one core; when it is done."""
        starts = max(self._busy_until[number], arrives)
        self.death.longest_queue = max(self.death.longest_queue, starts - arrives)
        self._busy_until[number] = starts + HANDSHAKE_SECONDS
        return self._busy_until[number]

    def hello(self, number: int) -> float | None:
        """None when the node takes the session; else in how many seconds to come again, 0 if it does not say."""
        self.fleet.now = self._began + self.now
        wait = self.fleet.admit(number)
        if wait:
            self.death.postponed += 1
        if wait is None:
            self.death.busiest[number] += 1
        return wait
