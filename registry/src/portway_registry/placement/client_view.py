"""The known places as one client sees them: their order by distance, and the round trips that were measured near it.

Here: which round trip to expect of what was measured, and what the client's own line adds to the others. Not here:
which nodes are chosen (order.py), what is learned from clients' reports (round_trips.py).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from portway_geo.ordering import DistanceOrder
from portway_geo.position import Position, Vector, fibre_round_trip_ms, vector_distance_km

from portway_registry.placement.placed_nodes import PlacedNode
from portway_registry.placement.places import KnownPlace, Places
from portway_registry.placement.round_trips import Expected, Learned

# Upper limit of what a client's own line adds to each of its round trips; a slow line adds this much (figures in
# docs/decisions/0027-access-delay-is-added-to-estimates.md). A client that is farther from everything is not at its
# presumed position, so its distances say nothing.
MAX_ACCESS_MS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Measured:
    """The places and the nodes that clients of one prefix have measured.

    Each has the round trip to expect in milliseconds and its distance in km, 0 where that is unknown. `outliers` names
    the nodes whose round trip is not that of their place.
    """

    places: Sequence[tuple[KnownPlace, float, float]] = ()
    nodes: Sequence[tuple[PlacedNode, float, float]] = ()
    outliers: Collection[str] = ()

    def __bool__(self) -> bool:
        return bool(self.places or self.nodes)


NOTHING_MEASURED: Final = Measured()


@dataclass(frozen=True, slots=True)
class ClientView:
    """The known places for a client at a known position. `access_ms` is what its own line adds to an estimate."""

    order: DistanceOrder
    measured: Measured = NOTHING_MEASURED
    access_ms: float = 0.0


def view_from(places: Places, client: Position, learned: Learned) -> ClientView:
    """The view of a client at this position, for whose prefix this was learned."""
    order = places.geometry.nearest.order_from(client)
    if not learned:
        return ClientView(order)
    known: list[tuple[KnownPlace, Expected, float, float | None]] = []  # with distance and estimate
    excess = []
    for key, expected in learned.places.items():
        place = places.place(key)
        if place is None:
            continue
        if place.vector is None:
            known.append((place, expected, 0.0, None))
            continue
        km = vector_distance_km(order.origin, place.vector)
        estimate = fibre_round_trip_ms(km)
        known.append((place, expected, km, estimate))
        if expected.exact:
            excess.append(expected.ms - estimate)
    # What the client's line adds to each round trip: the least by which a measured one exceeds its distance's. It is
    # part of every measurement and of no estimate: without it, each place that was never tried would seem nearer than
    # the best one that was.
    access_ms = min(MAX_ACCESS_MS, max(0.0, min(excess, default=0.0)))
    measured_places = [
        (place, expected.ms if estimate is None else expected.beside(estimate + access_ms), km)
        for place, expected, km, estimate in known
        if estimate is not None or expected.exact  # without an estimate, a lower bound is no reason to try it first
    ]
    nodes = list(_measured_nodes(places, learned, order.origin, access_ms))
    return ClientView(order, Measured(measured_places, nodes, learned.nodes), access_ms)


def measured_from_anywhere(places: Places, learned: Learned) -> Measured:
    """What was measured exactly, for a client whose position is unknown."""
    if not learned:
        return NOTHING_MEASURED
    exact = [
        (place, expected.ms, 0.0)
        for key, expected in learned.places.items()
        if expected.exact and (place := places.place(key)) is not None
    ]
    return Measured(exact, list(_measured_nodes(places, learned, None, 0.0)), learned.nodes)


def _measured_nodes(
    places: Places, learned: Learned, origin: Vector | None, access_ms: float
) -> Iterator[tuple[PlacedNode, float, float]]:
    """The outliers that take clients, each with its expected round trip and its distance."""
    for name, expected in learned.nodes.items():
        node = places.node(name)
        if node is None or not node.takes_clients:
            continue
        place = places.place(node.place)
        vector = None if place is None else place.vector
        if origin is not None and vector is not None:
            km = vector_distance_km(origin, vector)
            yield node, expected.beside(fibre_round_trip_ms(km) + access_ms), km
        elif expected.exact:
            yield node, expected.ms, 0.0
