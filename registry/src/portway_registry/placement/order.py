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
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest

from portway_geo.ordering import FarApart
from portway_geo.position import Position, Vector, fibre_round_trip_ms, unit_vector, vector_distance_km

from portway_registry.placement.group import Group
from portway_registry.placement.placed_nodes import Place, PlacedNode
from portway_registry.placement.places import Geometry, KnownPlace, Ranking, Sight
from portway_registry.placement.round_trips import NOTHING, Expected, Learned
from portway_registry.placement.shortlist import Ranked as Ranked
from portway_registry.placement.shortlist import Shortlist

# From a distance in km to the round trip to expect, in milliseconds; it must not fall as the distance grows.
RoundTrip = Callable[[float], float]

# Of a client's candidates, so many at the most are of one region while other regions have nodes that take clients.
# Its second one is of another: racing two of one place tells nothing of where it is near, and a region that dies takes
# all of its nodes along (docs/decisions/0025 has the figures).
MOST_OF_A_REGION = 2

# What a client's own access may add to all its round trips; a slow line has so much. Beyond it the client is not where
# it is thought to be, and its distances tell nothing.
MOST_ACCESS_MS = 30.0


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


class Placement:
    """The nodes known now, ready to be ordered for any client."""

    def __init__(self, nodes: Iterable[PlacedNode] = (), *, round_trip: RoundTrip = fibre_round_trip_ms) -> None:
        self._round_trip = round_trip
        self._nodes: dict[str, PlacedNode] = {}
        self._places: dict[Place, KnownPlace] = {}
        self._regions: dict[str, Group] = {}
        self._geometry: Geometry | None = None
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
            place = self._places[key] = KnownPlace(node.region, unit_vector(node.position) if node.position else None)
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
        geometry = self._current()
        if client is None:
            return self._far_apart(geometry, region, limit, rng, learned)
        return self._best(geometry, self._look(geometry, client, learned), region, limit, rng)

    def spread_candidates(
        self, client: Position | None, *, limit: int, rng: random.Random, learned: Learned = NOTHING
    ) -> list[Ranked]:
        """As `candidates` of any region, but few of each: the best first, the best of another region second."""
        if client is None or limit < 1:
            return self.candidates(client, limit=limit, rng=rng, learned=learned)  # one of each region as it is
        geometry = self._current()
        sight = self._look(geometry, client, learned)
        best = self._best(geometry, sight, None, limit, rng)
        if not best:
            return best
        few = self._nearest(geometry, sight, None, limit, rng, most=MOST_OF_A_REGION)
        kept = best[:1]
        names, regions = {kept[0].node.name}, {kept[0].node.region: 1}
        for one in few:
            node = one.node
            of_region = regions.get(node.region, 0)
            if len(kept) < limit and node.name not in names and of_region < MOST_OF_A_REGION:
                kept.append(one)
                names.add(node.name)
                regions[node.region] = of_region + 1
        if len(kept) < limit:
            kept += [one for one in best if one.node.name not in names][: limit - len(kept)]
        other = next((number for number, one in enumerate(kept) if one.node.region != kept[0].node.region), 0)
        if other:
            kept.insert(1, kept.pop(other))
        return kept

    def _measure(self) -> Geometry:
        located = [place for place in self._places.values() if place.vector is not None]
        vectors = [place.vector for place in located if place.vector is not None]
        unlocated = [place for place in self._places.values() if place.vector is None]
        centres = {place.region: vector for place, vector in zip(located, vectors, strict=True)}
        elsewhere = [region for region in self._regions if region not in centres]
        return Geometry(located, vectors, unlocated, FarApart(centres), elsewhere)

    def _current(self) -> Geometry:
        geometry = self._geometry
        if geometry is None:
            geometry = self._geometry = self._measure()
        return geometry

    def _look(self, geometry: Geometry, client: Position, learned: Learned) -> Sight:
        """What every search for this client needs, worked out once."""
        origin = unit_vector(client)
        ranking = geometry.ranking(client, origin)
        if not learned:
            return Sight(origin, ranking)
        measured: list[tuple[KnownPlace, Expected, float, float | None]] = []
        over = []
        for key, expected in learned.places.items():
            place = self._places.get(key)
            if place is None:
                continue
            if place.vector is None:
                measured.append((place, expected, 0.0, None))
                continue
            km = vector_distance_km(origin, place.vector)
            estimate = self._round_trip(km)
            measured.append((place, expected, km, estimate))
            if expected.exact:
                over.append(expected.ms - estimate)
        # What the client's access adds to each of its round trips: the least a measured one is over its distance's.
        # It is in whatever was measured and not in what is estimated: left out, every place that nobody has tried would
        # seem nearer than the best one that somebody has.
        access = min(MOST_ACCESS_MS, max(0.0, min(over, default=0.0)))
        places = [
            (place, expected.ms if estimate is None else expected.beside(estimate + access), km)
            for place, expected, km, estimate in measured
            if estimate is not None or expected.exact  # beside no estimate a bound is no reason to go there first
        ]
        nodes = list(self._measured_nodes(learned, origin, access))
        return Sight(origin, ranking, places, nodes, learned.nodes, access)

    def _measured_nodes(
        self, learned: Learned, origin: Vector | None, access: float = 0.0
    ) -> Iterator[tuple[PlacedNode, float, float]]:
        """Nodes that are not like their place, with what to expect of each and its distance."""
        for name, expected in learned.nodes.items():
            node = self._nodes.get(name)
            if node is None or not node.takes_clients:
                continue
            vector = self._places[node.place].vector
            if origin is not None and vector is not None:
                km = vector_distance_km(origin, vector)
                yield node, expected.beside(self._round_trip(km) + access), km
            elif expected.exact:
                yield node, expected.ms, 0.0

    def _best(
        self, geometry: Geometry, sight: Sight, region: str | None, limit: int, rng: random.Random
    ) -> list[Ranked]:
        """The nearest, and where they are too few those of nobody knows where."""
        ranked = self._nearest(geometry, sight, region, limit, rng)
        if len(ranked) < limit:
            known = {one.node.name for one in ranked}
            places = [place.nodes for place in geometry.unlocated if region in (None, place.region)]
            rng.shuffle(places)
            rest = _in_turn(places, limit, rng)
            ranked += [one for one in rest if one.node.name not in known][: limit - len(ranked)]
        return ranked

    def _nearest(
        self,
        geometry: Geometry,
        sight: Sight,
        region: str | None,
        limit: int,
        rng: random.Random,
        most: int | None = None,
    ) -> list[Ranked]:
        """What was measured first; then walk the places outwards until none farther out can be among the best.

        With `most` no more than so many of a region are looked at, those of its nearest places.
        """
        shortlist = Shortlist(limit, rng)
        ranking, access, apart = sight.ranking, sight.access, sight.apart
        offered: set[int] = set()
        if sight.places or sight.nodes:
            _offer_measured(shortlist, sight, region, limit if most is None else most)
            offered = {id(place) for place, _, _ in sight.places}
        looked_at: dict[str, int] = {}
        for rank, index in enumerate(ranking.order):
            if rank == len(ranking.km):
                ranking.km.append(vector_distance_km(sight.origin, geometry.vectors[index]))
            km = ranking.km[rank]
            expected = self._round_trip(km) + access
            base = round(expected)
            if base > shortlist.worst:
                break
            place = geometry.located[index]
            tiers = place.nodes.tiers
            if not tiers or base + tiers[0][0] > shortlist.worst or region not in (None, place.region):
                continue
            if id(place) in offered:  # for its key is slow to hash
                continue
            if most is None:
                shortlist.offer_least(place.nodes, limit, apart, expected, km)
            elif left := most - looked_at.get(place.region, 0):
                found = place.nodes.least(left, rng, apart)
                looked_at[place.region] = most - left + len(found)
                shortlist.offer(found, expected, km)
        return shortlist.ranked()

    def _far_apart(
        self, geometry: Geometry, region: str | None, limit: int, rng: random.Random, learned: Learned
    ) -> list[Ranked]:
        """One node of each region, those far apart first, from a random one on, in turn with what was measured: the
        client races both, so that a node which nobody has tried yet can turn out to be nearer."""
        measured = []
        if learned:
            exact = [
                (place, expected.ms, 0.0)
                for key, expected in learned.places.items()
                if expected.exact and (place := self._places.get(key)) is not None
            ]
            shortlist = Shortlist(limit, rng)
            nowhere = Sight((0.0, 0.0, 0.0), Ranking(), exact, list(self._measured_nodes(learned, None)), learned.nodes)
            _offer_measured(shortlist, nowhere, region, limit)
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


def _offer_measured(shortlist: Shortlist, sight: Sight, region: str | None, each: int) -> None:
    """The few places and nodes that clients near this one have measured, each at its own cost."""
    for place, expected, km in sight.places:
        if region in (None, place.region):
            shortlist.offer_least(place.nodes, each, sight.apart, expected, km, learned=True)
    for node, expected, km in sight.nodes:
        if region in (None, node.region):
            shortlist.offer([(node.penalty_ms, node)], expected, km, learned=True)


def _alternately(some: Sequence[Ranked], others: Sequence[Ranked], limit: int) -> list[Ranked]:
    """One of each in turn, and what is left of the longer."""
    mixed = [one for pair in zip_longest(some, others) for one in pair if one is not None]
    return mixed[:limit]


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
