"""The order of many places: the nearest to a position first, or each next one far from those before it.

Places are unit vectors (position.py) and are fixed when an ordering is made. Orders are worked out once and kept.
"""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Final

from portway_geo.position import Position, Vector, unit_vector, vector_distance_km

# Positions whose order of places is kept: at 1,000 places 4 to 12 KB each, at most 24 MB.
MAX_CACHED_ORDERS: Final = 2_048


class NearestFirst:
    """Orders of the same places by their distance from any position; the last MAX_CACHED_ORDERS used are kept."""

    def __init__(self, places: Sequence[Vector]) -> None:
        self._order = lru_cache(maxsize=MAX_CACHED_ORDERS)(partial(DistanceOrder, tuple(places)))

    def order_from(self, position: Position) -> "DistanceOrder":
        """The places by their distance from this position."""
        return self._order(position)

    @property
    def cached_orders(self) -> int:
        """How many positions' orders are kept now."""
        return self._order.cache_info().currsize


class DistanceOrder:
    """All places, the nearest to one position first. A distance is worked out when an iteration first reaches it."""

    __slots__ = ("_indices", "_km", "_places", "origin")

    def __init__(self, places: Sequence[Vector], position: Position) -> None:
        self._places = places
        self.origin = unit_vector(position)
        x, y, z = self.origin
        # The inner product of unit vectors falls as their distance grows.
        nearness = [x * a + y * b + z * c for a, b, c in places]
        self._indices = array("I", sorted(range(len(nearness)), key=nearness.__getitem__, reverse=True))
        self._km = array("d")

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """The index of each place and its distance in km."""
        known = self._km
        for rank, index in enumerate(self._indices):
            if rank == len(known):
                known.append(vector_distance_km(self.origin, self._places[index]))
            yield index, known[rank]


class FarApart:
    """Orders in which each next place is the one whose nearest place so far is the farthest away.

    One of the first few is near any position. An order is worked out only as far as iterations have reached.
    """

    def __init__(self, places: Mapping[str, Vector]) -> None:
        self.names: Sequence[str] = tuple(places)
        self._vectors = tuple(places.values())
        self._orders: dict[int, _GreedyOrder] = {}  # by the first place's index

    def starting_at(self, start: int) -> Iterator[str]:
        """All names, `names[start]` first."""
        order = self._orders.get(start)
        if order is None:
            order = self._orders[start] = _GreedyOrder(self._vectors, start)
        for rank in range(len(self.names)):
            yield self.names[order.index_at(rank)]


class _GreedyOrder:
    """One order of FarApart, as far as it is worked out."""

    def __init__(self, vectors: Sequence[Vector], start: int) -> None:
        self._vectors = vectors
        self._chosen = [start]
        # Of each place the chord to the nearest chosen one; -1 for the chosen ones.
        self._nearest = array("d", [math.inf]) * len(vectors)

    def index_at(self, rank: int) -> int:
        """The place at this rank, from 0 to one below the number of places."""
        while len(self._chosen) <= rank:
            last = self._vectors[self._chosen[-1]]
            self._nearest[self._chosen[-1]] = -1.0
            distance = math.dist
            self._nearest = array(
                "d", [min(n, distance(last, v)) for n, v in zip(self._nearest, self._vectors, strict=True)]
            )
            self._chosen.append(max(range(len(self._nearest)), key=self._nearest.__getitem__))
        return self._chosen[rank]
