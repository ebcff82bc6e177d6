"""The order in which a client should try the nodes.

A located client gets the nodes by expected round trip plus load penalty, in whole milliseconds: positions in whole
degrees cannot tell less apart, so such nodes are equals, and equals are in random order. The expected round trip comes
from the distance, unless clients near this one have measured it. A client whose position is unknown gets one node of
each of several regions far apart, then second ones, alternating with nodes that were measured. Nodes that are not ready
or are full are left out.

Here: the choice. Not here: what load costs (placed_nodes.py), which round trip to expect (client_view.py).
"""

import random
from collections.abc import Iterable, Iterator
from itertools import chain, islice, zip_longest
from typing import Final

from portway_geo.position import Position, fibre_round_trip_ms

from portway_registry.placement.client_view import ClientView, Measured, measured_from_anywhere, view_from
from portway_registry.placement.placed_nodes import Group, PlacedNode
from portway_registry.placement.places import Places
from portway_registry.placement.round_trips import NOTHING, Learned
from portway_registry.placement.shortlist import Candidate, Shortlist

# Candidates of one region, at most, while other regions have nodes that take clients. The second candidate is of
# another region than the first: racing two nodes of one place tells nothing about which region is near, and a region
# that dies takes all of its nodes along (docs/decisions/0025-at-most-two-candidates-per-region.md has the figures).
MAX_OF_A_REGION: Final = 2


def best_candidates(
    places: Places,
    client: Position | None,
    *,
    region: str | None = None,
    limit: int,
    rng: random.Random,
    learned: Learned = NOTHING,
) -> list[Candidate]:
    """At most `limit` nodes that take clients, the best first; with `region`, only nodes of it.

    `client` is None when its position is unknown; `learned` is what clients of its prefix have measured.
    """
    if limit < 1:
        return []
    if client is None:
        return _far_apart(places, region, limit, rng, learned)
    return _best(places, view_from(places, client, learned), region, limit, rng)


def spread_candidates(
    places: Places, client: Position | None, *, limit: int, rng: random.Random, learned: Learned = NOTHING
) -> list[Candidate]:
    """As `best_candidates` of any region, but at most MAX_OF_A_REGION of each while that fills `limit`.

    The best is first, the best of another region second.
    """
    if client is None or limit < 1:
        return best_candidates(places, client, limit=limit, rng=rng, learned=learned)  # is one of each region already
    view = view_from(places, client, learned)
    best = _best(places, view, None, limit, rng)
    if not best:
        return best
    few_of_each = _nearest(places, view, None, limit, rng, max_of_a_region=MAX_OF_A_REGION)
    chosen = best[:1]
    names, regions = {chosen[0].node.name}, {chosen[0].node.region: 1}
    for one in few_of_each:
        node = one.node
        of_region = regions.get(node.region, 0)
        if len(chosen) < limit and node.name not in names and of_region < MAX_OF_A_REGION:
            chosen.append(one)
            names.add(node.name)
            regions[node.region] = of_region + 1
    if len(chosen) < limit:
        chosen += [one for one in best if one.node.name not in names][: limit - len(chosen)]
    second = next((rank for rank, one in enumerate(chosen) if one.node.region != chosen[0].node.region), 0)
    if second:
        chosen.insert(1, chosen.pop(second))
    return chosen


def _best(places: Places, view: ClientView, region: str | None, limit: int, rng: random.Random) -> list[Candidate]:
    """The nearest nodes, and where they are fewer than `limit` those whose position is unknown."""
    candidates = _nearest(places, view, region, limit, rng)
    if len(candidates) < limit:
        names = {one.node.name for one in candidates}
        groups = [place.nodes for place in places.geometry.unlocated if region in (None, place.region)]
        rng.shuffle(groups)
        others = _in_turn(groups, limit, rng)
        candidates += [one for one in others if one.node.name not in names][: limit - len(candidates)]
    return candidates


def _nearest(
    places: Places,
    view: ClientView,
    region: str | None,
    limit: int,
    rng: random.Random,
    max_of_a_region: int | None = None,
) -> list[Candidate]:
    """Measured places and nodes, then the other places outwards until none farther out can be among the best.

    With `max_of_a_region`, at most this many nodes of a region are looked at, those of its nearest places.
    """
    shortlist = Shortlist(limit, rng)
    geometry, access_ms, outliers = places.geometry, view.access_ms, view.measured.outliers
    offered: set[int] = set()
    if view.measured:
        _offer_measured(shortlist, view.measured, region, max_of_a_region or limit)
        offered = {id(place) for place, _, _ in view.measured.places}
    looked_at: dict[str, int] = {}
    for index, km in view.order:
        expected_ms = fibre_round_trip_ms(km) + access_ms
        base = round(expected_ms)
        if base > shortlist.worst:
            break
        place = geometry.located[index]
        tiers = place.nodes.tiers
        if not tiers or base + tiers[0][0] > shortlist.worst or region not in (None, place.region):
            continue
        if id(place) in offered:  # the identity, because a Place is slow to hash
            continue
        if max_of_a_region is None:
            shortlist.offer_group(place.nodes, limit, outliers, expected_ms, km)
        elif left := max_of_a_region - looked_at.get(place.region, 0):
            found = place.nodes.least_loaded(left, rng, outliers)
            looked_at[place.region] = max_of_a_region - left + len(found)
            shortlist.offer(found, expected_ms, km)
    return shortlist.candidates()


def _far_apart(places: Places, region: str | None, limit: int, rng: random.Random, learned: Learned) -> list[Candidate]:
    """One node of each region, starting with a random one and regions far apart, alternating with measured nodes.

    The client races both kinds, so that a node which was never tried can turn out to be nearer.
    """
    measured: list[Candidate] = []
    if learned:
        shortlist = Shortlist(limit, rng)
        _offer_measured(shortlist, measured_from_anywhere(places, learned), region, limit)
        measured = shortlist.candidates()
    if region is not None:
        groups: Iterable[Group] = filter(None, [places.regions.get(region)])
    else:
        geometry = places.geometry
        located: Iterator[str] = iter(())
        if geometry.far_apart.names:
            located = geometry.far_apart.starting_at(int(rng.random() * len(geometry.far_apart.names)))
        unlocated = rng.sample(geometry.unlocated_regions, len(geometry.unlocated_regions))
        groups = (places.regions[name] for name in chain(located, unlocated))
    names = {one.node.name for one in measured}
    others = [one for one in _in_turn(groups, limit + len(names), rng) if one.node.name not in names]
    alternating = (one for pair in zip_longest(measured, others) for one in pair if one is not None)
    return list(islice(alternating, limit))


def _offer_measured(shortlist: Shortlist, measured: Measured, region: str | None, limit: int) -> None:
    """Offer what was measured, at most `limit` nodes of each place."""
    for place, expected_ms, km in measured.places:
        if region in (None, place.region):
            shortlist.offer_group(place.nodes, limit, measured.outliers, expected_ms, km, learned=True)
    for node, expected_ms, km in measured.nodes:
        if region in (None, node.region):
            shortlist.offer([(node.penalty_ms, node)], expected_ms, km, learned=True)


def _in_turn(groups: Iterable[Group], limit: int, rng: random.Random) -> list[Candidate]:
    """The least loaded node of each group in the groups' order, then the second of each, and so on."""
    candidates: list[Candidate] = []
    queues: Iterable[Iterator[tuple[int, PlacedNode]]] = (group.by_load(rng) for group in groups)
    while True:
        waiting = []  # queues that may have more
        for queue in queues:
            for penalty, node in islice(queue, 1):
                candidates.append(Candidate(node, penalty))
                waiting.append(queue)
            if len(candidates) == limit:
                return candidates
        if not waiting:
            return candidates
        queues = waiting
