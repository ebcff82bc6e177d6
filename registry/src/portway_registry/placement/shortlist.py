"""The best candidates so far, while a search goes on.

Here: which are kept, and when no further one can be among them. Not here: who is looked at, in which order (order.py).
"""

import heapq
import math
import random
from collections.abc import Collection, Iterable
from operator import itemgetter
from typing import NamedTuple

from portway_registry.placement.group import Group, shuffled
from portway_registry.placement.placed_nodes import PlacedNode


class Ranked(NamedTuple):
    """A candidate; a tuple, for many are made and few are looked at.

    Round trip and distance are 0 when client or node could not be located; `learned`: the round trip is what clients
    near this one have measured.
    """

    node: PlacedNode
    cost_ms: int
    expected_rtt_ms: float = 0.0
    distance_km: float = 0.0
    learned: bool = False


_cost_then_chance = itemgetter(0, 1)


class Shortlist:
    """At most `limit` candidates of the least cost, equals in random order."""

    __slots__ = ("_best", "_found", "_limit", "_rng", "worst")

    def __init__(self, limit: int, rng: random.Random) -> None:
        self._limit = limit
        self._rng = rng
        self._found: list[tuple[int, float, PlacedNode, float, float, bool]] = []
        self._best: list[int] = []  # a heap of the least costs so far, negated
        self.worst = math.inf  # the highest of them, once there are enough: what costs more is out

    def offer(
        self, nodes: Iterable[tuple[int, PlacedNode]], expected: float, km: float, *, learned: bool = False
    ) -> None:
        """Nodes with their penalties, the least first, that share a round trip in milliseconds and a distance."""
        base = round(expected)
        for penalty, node in nodes:
            if base + penalty > self.worst:
                return
            self._keep(base + penalty, node, expected, km, learned)

    def offer_least(
        self, group: Group, most: int, apart: Collection[str], expected: float, km: float, *, learned: bool = False
    ) -> None:
        """As `offer` of the first `most`, one at the least, of a group by load, without those in `apart`; in one loop
        and without a step between, for most of an answer's time goes by here."""
        base = round(expected)
        members, left = group.members, most
        for penalty, names in group.tiers:
            cost = base + penalty
            if cost > self.worst and not apart:
                if len(names) > 1:
                    self._rng.random()  # as a step of the shuffle would: one seed is one order, however it is found
                return
            for name in names if len(names) == 1 else shuffled(names, self._rng):
                if name in apart:
                    continue
                if cost > self.worst:
                    return
                self._keep(cost, members[name], expected, km, learned)
                left -= 1
                if not left:
                    return

    def _keep(self, cost: int, node: PlacedNode, expected: float, km: float, learned: bool) -> None:
        self._found.append((cost, self._rng.random(), node, expected, km, learned))
        best = self._best
        if len(best) < self._limit:
            heapq.heappush(best, -cost)
            if len(best) < self._limit:
                return
        else:
            heapq.heappushpop(best, -cost)
        self.worst = -best[0]

    def ranked(self) -> list[Ranked]:
        """The best first."""
        self._found.sort(key=_cost_then_chance)
        return [
            Ranked(node, cost, expected, km, learned)
            for cost, _, node, expected, km, learned in self._found[: self._limit]
        ]
