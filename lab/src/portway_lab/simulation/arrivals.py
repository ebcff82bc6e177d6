"""Arriving clients: Locate, the race, a session. Each result is recorded, for the figures and for a region's death.

Time advances in seconds, so that the counts of nodes that placement uses are as old as they are in a registry. Not
here: clients that lose their node (region_death.py).
"""

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from portway.engine.directory import RoundTrip
from portway.engine.foreseen_race import DialEnd, foreseen_race
from portway_registry.services.discovery import CANDIDATES

from portway_lab.simulation.assumptions import HANDSHAKE_ROUND_TRIPS
from portway_lab.simulation.clients import Prefix
from portway_lab.simulation.fleet import Fleet
from portway_lab.simulation.learning import Learning
from portway_lab.simulation.paths import Paths, seconds

NO_NODE = 0xFFFF_FFFF


@dataclass(slots=True)
class Sessions:
    """A column for each property, a row for each session; times are round trips in milliseconds."""

    prefix: "array[int]" = field(default_factory=lambda: array("I"))
    node: "array[int]" = field(default_factory=lambda: array("I"))
    first: "array[float]" = field(default_factory=lambda: array("f"))  # to the first candidate
    got: "array[float]" = field(default_factory=lambda: array("f"))  # to the node that won
    best: "array[float]" = field(default_factory=lambda: array("f"))  # to the nearest region
    known: "array[int]" = field(
        default_factory=lambda: array("I")
    )  # CANDIDATES entries for each session, padded with NO_NODE

    def __len__(self) -> int:
        return len(self.node)

    def candidates(self, session: int) -> list[int]:
        """The candidates that the client got, in order."""
        start = session * CANDIDATES
        return [node for node in self.known[start : start + CANDIDATES] if node != NO_NODE]

    def add(self, prefix: int, node: int, first: float, got: float, best: float, known: Sequence[int]) -> None:
        self.prefix.append(prefix)
        self.node.append(node)
        self.first.append(first)
        self.got.append(got)
        self.best.append(best)
        self.known.extend(known)
        self.known.extend([NO_NODE] * (CANDIDATES - len(known)))

    def end_one(self, index: int) -> int:
        """Remove a session; the last one takes its row. Returns the node that it was at."""
        node = self.node[index]
        for numbers in (self.prefix, self.node):
            numbers[index] = numbers[-1]
            numbers.pop()
        for times in (self.first, self.got, self.best):
            times[index] = times[-1]
            times.pop()
        start = len(self.known) - CANDIDATES
        self.known[index * CANDIDATES : (index + 1) * CANDIDATES] = self.known[start:]
        del self.known[start:]
        return node


class Arrivals:
    """Lets clients attach to a fleet. `refused` counts clients that no candidate accepted."""

    def __init__(
        self, fleet: Fleet, prefixes: Sequence[Prefix], paths: Paths, learning: Learning, rng: random.Random
    ) -> None:
        self._fleet = fleet
        self._prefixes = prefixes
        self._paths = paths
        self._learning = learning
        self._rng = rng
        self.sessions = Sessions()
        self.refused = 0
        self.second = 0

    def fill(self, count: int, over: int) -> None:
        """`count` clients, evenly over `over` seconds."""
        for i in range(over):
            self._second(count * (i + 1) // over - count * i // over)

    def churn(self, per_second: float, over: int) -> list[Counter[int]]:
        """`per_second` clients arrive each second and as many random ones leave, for `over` seconds.

        Returns for each second how many arrived at each node.
        """
        due, came = 0.0, []
        for _ in range(over):
            due += per_second
            for _ in range(int(due)):
                self._fleet.detach(self.sessions.end_one(self._rng.randrange(len(self.sessions))))
            came.append(Counter(self._second(int(due))))
            due -= int(due)
        return came

    def _second(self, count: int) -> list[int]:
        self._fleet.report(self.second)
        came = []
        for i in range(count):
            self._fleet.now = self.second + i / count
            self._learning.deliver()
            node = self._arrive(self._rng.randrange(len(self._prefixes)))
            if node is not None:
                came.append(node)
        self.second += 1
        return came

    def _arrive(self, number: int) -> int | None:
        prefix = self._prefixes[number]
        fleet, learning = self._fleet, self._learning
        replica = learning.replica()
        ranked = fleet.candidates(prefix.guess, learning.learned(replica, prefix))
        known = [fleet.by_name[one.node.name] for one in ranked]
        row = self._paths.row(number)
        measured: list[RoundTrip] = []
        node = self._attach(known, row, measured)
        learning.raced(replica, prefix, ranked, measured)
        if node is None:
            self.refused += 1
            return None
        nodes = fleet.nodes
        self.sessions.add(number, node, row[nodes[known[0]].region], row[nodes[node].region], min(row), known)
        return node

    def _attach(self, known: Sequence[int], row: "array[float]", measured: list[RoundTrip]) -> int | None:
        """The node that wins the race and accepts the session, None if none does; `measured` gets the race's round
        trips."""
        nodes, rng = self._fleet.nodes, self._rng
        dialled: list[tuple[int, float, DialEnd]] = []

        def dial(number: int, now: float) -> DialEnd:
            took = seconds(row[nodes[number].region], HANDSHAKE_ROUND_TRIPS, rng)
            dialled.append((number, now, DialEnd(now + took, connected=True)))
            return dialled[-1][2]

        running = foreseen_race(known, dial, 0.0)
        at, taken = 0.0, None
        try:
            step = next(running)
            while taken is None:
                at = step.at
                if step.ready is not None and self._fleet.admit(step.ready) is None:
                    taken = step.ready
                else:
                    step = running.send(step.at)
        except StopIteration:
            pass
        finally:
            running.close()
        for number, began, ending in dialled:
            waited = (min(at, ending.at) - began) * 1000 / HANDSHAKE_ROUND_TRIPS
            measured.append(RoundTrip(nodes[number].dialled.name, waited, at_least=ending.at > at))
        return taken
