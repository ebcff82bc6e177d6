"""Clients that come: Locate, the race, a session. What each ended up with is kept: figures, and the next loss, need it.

Second by second, so that nodes' counts are as old when a client is sent somewhere as they are in a registry. Not here:
clients that lose their node (region_death.py).
"""

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from portway.engine.directory import RoundTrip
from portway.engine.race_rule import DialEnd, foreseen_race
from portway_registry.services.discovery import CANDIDATES

from portway_lab.simulation.assumptions import HANDSHAKE_ROUND_TRIPS
from portway_lab.simulation.clients import Prefix
from portway_lab.simulation.fleet import Fleet
from portway_lab.simulation.learning import Learning
from portway_lab.simulation.paths import Paths, seconds

NOBODY = 0xFFFF_FFFF


@dataclass(slots=True)
class Sessions:
    """A column for each fact, a row for each session; times in milliseconds of round trip."""

    prefix: "array[int]" = field(default_factory=lambda: array("I"))
    node: "array[int]" = field(default_factory=lambda: array("I"))
    first: "array[float]" = field(default_factory=lambda: array("f"))  # to the first candidate
    got: "array[float]" = field(default_factory=lambda: array("f"))  # to the node that won
    best: "array[float]" = field(default_factory=lambda: array("f"))  # to the best of all
    known: "array[int]" = field(default_factory=lambda: array("I"))  # CANDIDATES a session, filled up with NOBODY

    def __len__(self) -> int:
        return len(self.node)

    def candidates(self, session: int) -> list[int]:
        """Whom the client was told of, in order."""
        start = session * CANDIDATES
        return [node for node in self.known[start : start + CANDIDATES] if node != NOBODY]

    def add(self, prefix: int, node: int, first: float, got: float, best: float, known: Sequence[int]) -> None:
        self.prefix.append(prefix)
        self.node.append(node)
        self.first.append(first)
        self.got.append(got)
        self.best.append(best)
        self.known.extend(known)
        self.known.extend([NOBODY] * (CANDIDATES - len(known)))

    def end_one(self, index: int) -> int:
        """The session goes, the last one takes its row; the node it was at."""
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
    """Brings clients to a fleet. `refused` counts those whom no candidate took."""

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
        """So many clients, evenly over so many seconds."""
        for i in range(over):
            self._second(count * (i + 1) // over - count * i // over)

    def churn(self, a_second: float, over: int) -> list[Counter[int]]:
        """So many come a second, and as many go, whichever; whom they came to, by second."""
        due, came = 0.0, []
        for _ in range(over):
            due += a_second
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
        told = fleet.candidates(prefix.guess, learning.learned(replica, prefix))
        known = [fleet.by_name[ranked.node.name] for ranked in told]
        row = self._paths.row(number)
        measured: list[RoundTrip] = []
        node = self._attach(known, row, measured)
        learning.raced(replica, prefix, told, measured)
        if node is None:
            self.refused += 1
            return None
        nodes = fleet.nodes
        self.sessions.add(number, node, row[nodes[known[0]].region], row[nodes[node].region], min(row), known)
        return node

    def _attach(self, known: Sequence[int], row: "array[float]", measured: list[RoundTrip]) -> int | None:
        """Who wins the race and takes the session; and what the race has measured, as the client does."""
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
