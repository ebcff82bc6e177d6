"""The nodes while many clients return at the same time, and the counts of what happens.

Here: dials that are answered or not, handshakes in sequence on one core, sessions that are accepted or postponed by the
node's own rule. Not here: what a client does next (returning.py), the order of events (region_death.py).
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from portway.engine.foreseen_race import DialEnd, no_answer
from portway_relay.config import NodeLimits

from portway_lab.simulation.assumptions import HANDSHAKE_ROUND_TRIPS, HANDSHAKE_SECONDS
from portway_lab.simulation.fleet import Fleet
from portway_lab.simulation.paths import seconds

NODE_LIMITS: Final = NodeLimits()


@dataclass(slots=True)
class Death:
    """The result of a region's death. Times in seconds after it; counters by whole seconds where not said otherwise."""

    region: int
    moved: int = 0
    back: list[float] = field(default_factory=list)
    landed: Counter[int] = field(default_factory=Counter)  # by region
    homes: dict[int, int] = field(default_factory=dict)  # the next node of each session
    before_ms: list[float] = field(default_factory=list)
    after_ms: list[float] = field(default_factory=list)
    locates: Counter[int] = field(default_factory=Counter)
    binds: Counter[int] = field(default_factory=Counter)
    deletes: Counter[int] = field(default_factory=Counter)  # records that end with their node's lease
    busiest: Counter[int] = field(default_factory=Counter)  # sessions accepted, by node
    dials_in_vain: int = 0  # no answer, or too late
    turned_away: int = 0  # by nodes with too many greetings
    postponed: int = 0  # asked to come later or elsewhere
    longest_queue: float = 0.0  # seconds that a handshake waited at a node
    leases_ended: list[float] = field(default_factory=list)


class Storm:
    """The current time, the nodes' work, and the counts of one death."""

    def __init__(self, fleet: Fleet, death: Death, rng: random.Random) -> None:
        self._began = fleet.now
        self.fleet = fleet
        self.death = death
        self.rng = rng
        self.now = 0.0
        self._busy_until = [0.0] * len(fleet.nodes)

    def dial(self, number: int, now: float, round_trip_ms: float) -> DialEnd:
        """How a client's dial will end. A node with too many lanes in their handshake closes the connection."""
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
        """Queue one more handshake at a node. Returns the time at which it is done."""
        starts = max(self._busy_until[number], arrives)
        self.death.longest_queue = max(self.death.longest_queue, starts - arrives)
        self._busy_until[number] = starts + HANDSHAKE_SECONDS
        return self._busy_until[number]

    def hello(self, number: int) -> float | None:
        """None if the node accepts the session, else the seconds after which to try again, 0 if it names none."""
        self.fleet.now = self._began + self.now
        wait = self.fleet.admit(number)
        if wait:
            self.death.postponed += 1
        if wait is None:
            self.death.busiest[number] += 1
        return wait
