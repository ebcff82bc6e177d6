"""The order in which a client should try the nodes.

A client that is located gets the nodes by expected round trip plus what their load costs, in whole milliseconds;
less than one is below what positions in whole degrees can tell, so such nodes are equals, and equals come in
random order. A client that is not located gets one node of each of several regions far apart, then second ones.
Nodes that are not ready or are full are left out.

Here: the choice. Not here: what a node's load costs (node.py), what a distance costs (distance.py).
"""

import heapq
import math
import random
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from operator import itemgetter

from portway_registry.geoip.locator import Position
from portway_registry.placement.distance import (
    Vector,
    fibre_round_trip_ms,
    unit_vector,
    vector_distance_km,
)
from portway_registry.placement.group import Group
from portway_registry.placement.node import PlacedNode
from portway_registry.placement.spread import Spread

# From a distance in km to the round trip to expect, in milliseconds; it must not fall as the distance grows. What
# is known of single nodes instead of by distance is of a few for each client: they can be costed one by one and
# take part in the same comparison, the walk outwards passing them over.
RoundTrip = Callable[[float], float]

# Clients' positions whose order of places is kept: at 1,000 places 4 to 12 KB each, 24 MB in all at the most.
MOST_RANKINGS = 2_048


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate. Round trip and distance are 0 when client or node could not be located."""

    node: PlacedNode
    cost_ms: int
    expected_rtt_ms: float = 0.0
    distance_km: float = 0.0


_cost_then_chance = itemgetter(0, 1)


def order_candidates(
    client: Position | None,
    nodes: Sequence[PlacedNode],
    *,
    region: str | None = None,
    limit: int,
    rng: random.Random,
) -> list[Ranked]:
    """One answer over these nodes; who answers often keeps a Placement."""
    return Placement(nodes).candidates(client, region=region, limit=limit, rng=rng)


@dataclass(slots=True)
class _Place:
    """Where nodes are; several of a region may share one."""

    region: str
    vector: Vector | None
    nodes: Group = field(default_factory=Group)


@dataclass(slots=True)
class _Ranking:
    """The indices of the located places, nearest to one client first, and the distances of those asked for."""

    order: "array[int]"
    km: "array[float]"


@dataclass(slots=True)
class _Geometry:
    """What follows from the places alone; made anew when one appears or vanishes."""

    located: list[_Place]
    vectors: list[Vector]  # of the located
    unlocated: list[_Place]
    spread: Spread
    elsewhere: list[str]  # regions none of whose nodes has a position
    rankings: OrderedDict[Position, _Ranking] = field(default_factory=OrderedDict)


class Placement:
    """The nodes known now, ready to be ordered for any client."""

    def __init__(self, nodes: Iterable[PlacedNode] = (), *, round_trip: RoundTrip = fibre_round_trip_ms) -> None:
        self._round_trip = round_trip
        self._nodes: dict[str, PlacedNode] = {}
        self._places: dict[tuple[str, Position | None], _Place] = {}
        self._regions: dict[str, Group] = {}
        self._geometry: _Geometry | None = None
        for node in nodes:
            self.put(node)

    def __len__(self) -> int:
        return len(self._nodes)

    def put(self, node: PlacedNode) -> None:
        """Add a node, or replace what is known of it by its name."""
        before = self._nodes.get(node.name)
        if before is not None and (before.region, before.position) != (node.region, node.position):
            self.remove(node.name)
        self._nodes[node.name] = node
        key = (node.region, node.position)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place(node.region, unit_vector(node.position) if node.position else None)
            self._geometry = None
        place.nodes.put(node)
        self._regions.setdefault(node.region, Group()).put(node)

    def remove(self, name: str) -> None:
        """Forget a node, known or not."""
        node = self._nodes.pop(name, None)
        if node is None:
            return
        region = self._regions[node.region]
        region.remove(name)
        if not region:
            del self._regions[node.region]
        key = (node.region, node.position)
        place = self._places[key]
        place.nodes.remove(name)
        if not place.nodes:
            del self._places[key]
            self._geometry = None

    def candidates(
        self, client: Position | None, *, region: str | None = None, limit: int, rng: random.Random
    ) -> list[Ranked]:
        """At most `limit` nodes that take clients, of `region` only if it is given, the best first."""
        if limit < 1:
            return []
        geometry = self._geometry
        if geometry is None:
            geometry = self._geometry = self._measure()
        if client is None:
            return self._far_apart(geometry, region, limit, rng)
        ranked = self._nearest(geometry, client, region, limit, rng)
        if len(ranked) < limit:
            places = [place.nodes for place in geometry.unlocated if region in (None, place.region)]
            rng.shuffle(places)
            ranked += _in_turn(places, limit - len(ranked), rng)
        return ranked

    def _measure(self) -> _Geometry:
        located = [place for place in self._places.values() if place.vector is not None]
        vectors = [place.vector for place in located if place.vector is not None]
        unlocated = [place for place in self._places.values() if place.vector is None]
        centres = {place.region: vector for place, vector in zip(located, vectors, strict=True)}
        elsewhere = [region for region in self._regions if region not in centres]
        return _Geometry(located, vectors, unlocated, Spread(centres), elsewhere)

    def _nearest(
        self, geometry: _Geometry, client: Position, region: str | None, limit: int, rng: random.Random
    ) -> list[Ranked]:
        """Walk the places outwards until none farther out can be among the best."""
        origin = unit_vector(client)
        ranking = _ranking(geometry, client, origin)
        found: list[tuple[int, float, PlacedNode, float, float]] = []
        best: list[int] = []  # a heap of the least costs so far, negated
        worst = math.inf  # the highest of them, once there are enough
        for rank, index in enumerate(ranking.order):
            if rank == len(ranking.km):
                ranking.km.append(vector_distance_km(origin, geometry.vectors[index]))
            km = ranking.km[rank]
            expected = self._round_trip(km)
            base = round(expected)
            if base > worst:
                break
            place = geometry.located[index]
            tiers = place.nodes.tiers
            if not tiers or base + tiers[0][0] > worst or region not in (None, place.region):
                continue
            for penalty, node in islice(place.nodes.by_load(rng), limit):
                cost = base + penalty
                if cost > worst:
                    break
                found.append((cost, rng.random(), node, expected, km))
                if len(best) < limit:
                    heapq.heappush(best, -cost)
                else:
                    heapq.heappushpop(best, -cost)
                if len(best) == limit:
                    worst = -best[0]
        found.sort(key=_cost_then_chance)
        return [Ranked(node, cost, expected, km) for cost, _, node, expected, km in found[:limit]]

    def _far_apart(self, geometry: _Geometry, region: str | None, limit: int, rng: random.Random) -> list[Ranked]:
        """One node of each region, those far apart first, from a random one on."""
        if region is not None:
            return _in_turn(filter(None, [self._regions.get(region)]), limit, rng)
        spread = geometry.spread
        walk: Iterator[str] = iter(())
        if spread.names:
            walk = spread.starting_at(int(rng.random() * len(spread.names)))
        elsewhere = rng.sample(geometry.elsewhere, len(geometry.elsewhere))
        return _in_turn((self._regions[name] for name in chain(walk, elsewhere)), limit, rng)


def _ranking(geometry: _Geometry, client: Position, origin: Vector) -> _Ranking:
    """The order of the located places for a client; kept for the positions asked for last."""
    ranking = geometry.rankings.get(client)
    if ranking is not None:
        geometry.rankings.move_to_end(client)
        return ranking
    x, y, z = origin
    # The inner product of unit vectors falls as their distance grows.
    near = [x * a + y * b + z * c for a, b, c in geometry.vectors]
    order = array("I", sorted(range(len(near)), key=near.__getitem__, reverse=True))
    ranking = geometry.rankings[client] = _Ranking(order, array("d"))
    if len(geometry.rankings) > MOST_RANKINGS:
        geometry.rankings.popitem(last=False)
    return ranking


def _in_turn(groups: Iterable[Group], limit: int, rng: random.Random) -> list[Ranked]:
    """The least loaded node of each group in the groups' order, then the second of each, and so on."""
    ranked: list[Ranked] = []
    queues: list[Iterator[tuple[int, PlacedNode]]] = []
    for group in groups:
        queue = group.by_load(rng)
        for penalty, node in islice(queue, 1):
            ranked.append(Ranked(node, penalty))
            queues.append(queue)
        if len(ranked) == limit:
            return ranked
    while queues:
        left = []
        for queue in queues:
            for penalty, node in islice(queue, 1):
                ranked.append(Ranked(node, penalty))
                left.append(queue)
            if len(ranked) == limit:
                return ranked
        queues = left
    return ranked
