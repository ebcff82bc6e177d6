"""The order in which a client should try the nodes.

A client that is located gets the nodes by expected round trip plus what their load costs, in whole milliseconds;
less than one is below what positions in whole degrees can tell, so such nodes are equals, and equals come in
random order. A round trip is expected by distance, unless clients near this one have measured it. A client that is not
located gets one node of each of several regions far apart, then second ones, in turn with those that were measured.
Nodes that are not ready or are full are left out.

Here: the choice. Not here: what a node's load costs (node.py), what a distance costs (distance.py), what was measured
(round_trips.py).
"""

import random
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest

from portway_registry.geoip.locator import Position
from portway_registry.placement.distance import (
    Vector,
    fibre_round_trip_ms,
    unit_vector,
    vector_distance_km,
)
from portway_registry.placement.group import Group
from portway_registry.placement.node import Place, PlacedNode
from portway_registry.placement.round_trips import NOTHING, Expected, Learned
from portway_registry.placement.shortlist import Ranked as Ranked
from portway_registry.placement.shortlist import Shortlist
from portway_registry.placement.spread import Spread

# From a distance in km to the round trip to expect, in milliseconds; it must not fall as the distance grows.
RoundTrip = Callable[[float], float]

# Clients' positions whose order of places is kept: at 1,000 places 4 to 12 KB each, 24 MB in all at the most.
MOST_RANKINGS = 2_048


def order_candidates(
    client: Position | None,
    nodes: Sequence[PlacedNode],
    *,
    region: str | None = None,
    limit: int,
    rng: random.Random,
    learned: Learned = NOTHING,
) -> list[Ranked]:
    """One answer over these nodes; who answers often keeps a Placement."""
    return Placement(nodes).candidates(client, region=region, limit=limit, rng=rng, learned=learned)


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
        self._places: dict[Place, _Place] = {}
        self._regions: dict[str, Group] = {}
        self._geometry: _Geometry | None = None
        for node in nodes:
            self.put(node)

    def __len__(self) -> int:
        return len(self._nodes)

    def put(self, node: PlacedNode) -> None:
        """Add a node, or replace what is known of it by its name."""
        before = self._nodes.get(node.name)
        if before is not None and before.place != node.place:
            self.remove(node.name)
        self._nodes[node.name] = node
        key = node.place
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
        key = node.place
        place = self._places[key]
        place.nodes.remove(name)
        if not place.nodes:
            del self._places[key]
            self._geometry = None

    def get(self, name: str) -> PlacedNode | None:
        """A node, if it is known."""
        return self._nodes.get(name)

    def candidates(
        self,
        client: Position | None,
        *,
        region: str | None = None,
        limit: int,
        rng: random.Random,
        learned: Learned = NOTHING,
    ) -> list[Ranked]:
        """At most `limit` nodes that take clients, of `region` only if it is given, the best first."""
        if limit < 1:
            return []
        geometry = self._geometry
        if geometry is None:
            geometry = self._geometry = self._measure()
        if client is None:
            return self._far_apart(geometry, region, limit, rng, learned)
        ranked = self._nearest(geometry, client, region, limit, rng, learned)
        if len(ranked) < limit:
            known = {one.node.name for one in ranked}
            places = [place.nodes for place in geometry.unlocated if region in (None, place.region)]
            rng.shuffle(places)
            rest = _in_turn(places, limit, rng)
            ranked += [one for one in rest if one.node.name not in known][: limit - len(ranked)]
        return ranked

    def _measure(self) -> _Geometry:
        located = [place for place in self._places.values() if place.vector is not None]
        vectors = [place.vector for place in located if place.vector is not None]
        unlocated = [place for place in self._places.values() if place.vector is None]
        centres = {place.region: vector for place, vector in zip(located, vectors, strict=True)}
        elsewhere = [region for region in self._regions if region not in centres]
        return _Geometry(located, vectors, unlocated, Spread(centres), elsewhere)

    def _nearest(
        self,
        geometry: _Geometry,
        client: Position,
        region: str | None,
        limit: int,
        rng: random.Random,
        learned: Learned,
    ) -> list[Ranked]:
        """What was measured first; then walk the places outwards until none farther out can be among the best."""
        origin = unit_vector(client)
        ranking = _ranking(geometry, client, origin)
        shortlist = Shortlist(limit, rng)
        offered = self._offer_learned(shortlist, origin, region, limit, rng, learned) if learned else ()
        for rank, index in enumerate(ranking.order):
            if rank == len(ranking.km):
                ranking.km.append(vector_distance_km(origin, geometry.vectors[index]))
            km = ranking.km[rank]
            expected = self._round_trip(km)
            base = round(expected)
            if base > shortlist.worst:
                break
            place = geometry.located[index]
            tiers = place.nodes.tiers
            if not tiers or base + tiers[0][0] > shortlist.worst or region not in (None, place.region):
                continue
            if id(place) not in offered:  # for its key is slow to hash
                shortlist.offer(_first(place.nodes, limit, rng, learned), expected, km)
        return shortlist.ranked()

    def _offer_learned(
        self,
        shortlist: Shortlist,
        origin: Vector | None,
        region: str | None,
        limit: int,
        rng: random.Random,
        learned: Learned,
    ) -> set[int]:
        """The few places and nodes that clients near this one have measured, each at its own cost; which places, by
        identity."""
        offered = set()
        for key, expected in learned.places.items():
            place = self._places.get(key)
            if place is not None and region in (None, place.region):
                self._offer_expected(shortlist, origin, place, expected, _first(place.nodes, limit, rng, learned))
                offered.add(id(place))
        for name, expected in learned.nodes.items():
            node = self._nodes.get(name)
            if node is not None and node.takes_clients and region in (None, node.region):
                self._offer_expected(shortlist, origin, self._places[node.place], expected, [(node.penalty_ms, node)])
        return offered

    def _offer_expected(
        self,
        shortlist: Shortlist,
        origin: Vector | None,
        place: _Place,
        expected: Expected,
        nodes: Iterable[tuple[int, PlacedNode]],
    ) -> None:
        if origin is not None and place.vector is not None:
            km = vector_distance_km(origin, place.vector)
            shortlist.offer(nodes, expected.beside(self._round_trip(km)), km, learned=True)
        elif expected.exact:  # beside no estimate a bound is no reason to go there first
            shortlist.offer(nodes, expected.ms, 0.0, learned=True)

    def _far_apart(
        self, geometry: _Geometry, region: str | None, limit: int, rng: random.Random, learned: Learned
    ) -> list[Ranked]:
        """One node of each region, those far apart first, from a random one on, in turn with what was measured: the
        client races both, so that a node which nobody has tried yet can turn out to be nearer."""
        shortlist = Shortlist(limit, rng)
        self._offer_learned(shortlist, None, region, limit, rng, learned)
        measured = shortlist.ranked()
        if region is not None:
            groups: Iterable[Group] = filter(None, [self._regions.get(region)])
        else:
            spread = geometry.spread
            walk: Iterator[str] = iter(())
            if spread.names:
                walk = spread.starting_at(int(rng.random() * len(spread.names)))
            elsewhere = rng.sample(geometry.elsewhere, len(geometry.elsewhere))
            groups = (self._regions[name] for name in chain(walk, elsewhere))
        known = {one.node.name for one in measured}
        others = [one for one in _in_turn(groups, limit + len(known), rng) if one.node.name not in known]
        return _alternately(measured, others, limit)


def _first(nodes: Group, limit: int, rng: random.Random, learned: Learned) -> Iterable[tuple[int, PlacedNode]]:
    """The least loaded of a place, without those that are known to be otherwise than it."""
    apart = learned.nodes
    if not apart:
        return islice(nodes.by_load(rng), limit)
    return islice((pair for pair in nodes.by_load(rng) if pair[1].name not in apart), limit)


def _alternately(some: Sequence[Ranked], others: Sequence[Ranked], limit: int) -> list[Ranked]:
    """One of each in turn, and what is left of the longer."""
    mixed = [one for pair in zip_longest(some, others) for one in pair if one is not None]
    return mixed[:limit]


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
