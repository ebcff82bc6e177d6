"""The best candidates so far, while a search goes on.

Here: which are kept, and when no further one can be among them. Not here: which are offered, in which order (order.py).
"""

import heapq
import math
import random
from collections.abc import Collection, Iterable
from operator import itemgetter
from typing import NamedTuple

from portway_registry.placement.placed_nodes import Group, PlacedNode, shuffled


class Candidate(NamedTuple):
    """A node for a client to try. A tuple, because many are made and few are looked at.

    cost_ms: expected round trip plus load penalty, in whole milliseconds.
    expected_rtt_ms, distance_km: 0 when the client or the node could not be located.
    learned: clients near this one have measured the round trip.
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
        self._best: list[int] = []  # a heap of the `limit` least costs so far, negated
        self.worst = math.inf  # the highest of them once there are `limit`: a candidate that costs more is out

    def offer(
        self, nodes: Iterable[tuple[int, PlacedNode]], expected_ms: float, km: float, *, learned: bool = False
    ) -> None:
        """Offer nodes that share an expected round trip and a distance, each after its penalty, least penalty first."""
        base = round(expected_ms)
        for penalty, node in nodes:
            if base + penalty > self.worst:
                return
            self._keep(base + penalty, node, expected_ms, km, learned)

    def offer_group(
        self,
        group: Group,
        limit: int,
        excluded: Collection[str],
        expected_ms: float,
        km: float,
        *,
        learned: bool = False,
    ) -> None:
        """As `offer` with the group's `limit` least loaded nodes (at least 1) whose names are not in `excluded`.

        In one loop without a generator, because most of an answer's time is spent here.
        """
        base = round(expected_ms)
        members, left = group.members, limit
        for penalty, names in group.tiers:
            cost = base + penalty
            if cost > self.worst and not excluded:
                if len(names) > 1:
                    self._rng.random()  # as one step of the shuffle would, so that `offer` gives the same order
                return
            for name in names if len(names) == 1 else shuffled(names, self._rng):
                if name in excluded:
                    continue
                if cost > self.worst:
                    return
                self._keep(cost, members[name], expected_ms, km, learned)
                left -= 1
                if not left:
                    return

    def _keep(self, cost: int, node: PlacedNode, expected_ms: float, km: float, learned: bool) -> None:
        self._found.append((cost, self._rng.random(), node, expected_ms, km, learned))
        best = self._best
        if len(best) < self._limit:
            heapq.heappush(best, -cost)
            if len(best) < self._limit:
                return
        else:
            heapq.heappushpop(best, -cost)
        self.worst = -best[0]

    def candidates(self) -> list[Candidate]:
        """The best first."""
        self._found.sort(key=_cost_then_chance)
        return [
            Candidate(node, cost, expected_ms, km, learned)
            for cost, _, node, expected_ms, km, learned in self._found[: self._limit]
        ]
