"""The true round trip between a client and a region, which placement only estimates.

Light in fibre along the great circle, times a factor of this network and region, plus a detour to the next exchange,
plus the client's access. The median of the factor is what placement assumes; because it differs from pair to pair, a
nearer node can be slower. Not here: the choice of a node.
"""

import random
from array import array
from collections.abc import Sequence

from portway_geo.position import PATH_STRETCH, light_round_trip_ms, vector_distance_km

from portway_lab.simulation.assumptions import DETOUR_MEAN_MS, LEAST_STRETCH, NOISE_MEAN_MS, STRETCH_SPREAD
from portway_lab.simulation.clients import Prefix
from portway_lab.simulation.geography import Region

_MS = 1000.0


class Paths:
    """Round trips by prefix and region; the same seed gives the same ones, in whatever order they are asked for."""

    def __init__(self, prefixes: Sequence[Prefix], regions: Sequence[Region], seed: int) -> None:
        self._prefixes = prefixes
        self._regions = regions
        self._seed = seed
        self._routes: dict[int, array[float]] = {}
        self._rows: dict[int, array[float]] = {}

    def row(self, prefix: int) -> "array[float]":
        """To every region, in milliseconds, without noise."""
        row = self._rows.get(prefix)
        if row is None:
            row = self._rows[prefix] = self._measure(self._prefixes[prefix])
        return row

    def _measure(self, prefix: Prefix) -> "array[float]":
        routes = self._routes.get(prefix.network)
        if routes is None:
            routes = self._routes[prefix.network] = self._lay(prefix.network)
        return array(
            "d",
            [
                prefix.access_ms
                + routes[2 * i + 1]
                + routes[2 * i] * light_round_trip_ms(vector_distance_km(prefix.vector, region.vector))
                for i, region in enumerate(self._regions)
            ],
        )

    def _lay(self, network: int) -> "array[float]":
        """Stretch and detour of a network to each region in turn."""
        rng = random.Random(f"{self._seed} {network}")  # so that the order of calls does not matter
        routes: array[float] = array("d")
        for _ in self._regions:
            routes.append(max(LEAST_STRETCH, PATH_STRETCH * rng.lognormvariate(0.0, STRETCH_SPREAD)))
            routes.append(rng.expovariate(1 / DETOUR_MEAN_MS))
        return routes


def seconds(round_trip_ms: float, round_trips: int, rng: random.Random) -> float:
    """The seconds of `round_trips` round trips, each with noise."""
    noise = sum(rng.expovariate(1 / NOISE_MEAN_MS) for _ in range(round_trips))
    return (round_trips * round_trip_ms + noise) / _MS
