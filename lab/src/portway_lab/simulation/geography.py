"""The map: places with their weight, and where an operator would put regions.

A place is a cell of the registry's GeoIP table: whole degrees within a country. Not here: the clients of a place
(clients.py), the paths between two places (paths.py).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from portway_geo.position import EARTH_RADIUS_KM, Position, Vector, unit_vector
from portway_geo.table import IPV4_BITS, Table

from portway_lab.simulation.assumptions import MAX_RUN

# Minimum distance of two regions: New York and Washington may have one each, Brooklyn and Manhattan may not.
_APART_KM = 300.0


@dataclass(frozen=True, slots=True)
class Place:
    """A cell; `weight` in /24s."""

    position: Position
    vector: Vector
    weight: int


@dataclass(frozen=True, slots=True)
class Region:
    """`demand`: the share of all weight whose nearest region this is."""

    name: str
    position: Position
    vector: Vector
    demand: float


def places_of(table: Table) -> tuple[Place, ...]:
    """Every place with IPv4 addresses, by descending weight."""
    runs = table.ipv4
    weights: Counter[int] = Counter()
    ends = [*runs.starts[1:], 1 << min(runs.step, IPV4_BITS)]
    for start, end, cell in zip(runs.starts, ends, runs.cells, strict=True):
        weights[cell] += min(end - start, MAX_RUN)
    found = []
    for cell, weight in weights.most_common():
        position = table.positions[cell]
        if position is not None:
            found.append(Place(position, unit_vector(position), weight))
    return tuple(found)


def choose_regions(places: Sequence[Place], count: int) -> tuple[Region, ...]:
    """The `count` heaviest places that are far enough apart, where an operator would begin.

    Raises ValueError when the map has fewer.
    """
    near = math.cos(_APART_KM / EARTH_RADIUS_KM)  # the inner product of unit vectors at this distance
    chosen: list[Place] = []
    for place in places:
        if len(chosen) == count:
            break
        if all(_inner(place.vector, other.vector) < near for other in chosen):
            chosen.append(place)
    if len(chosen) < count:
        raise ValueError(f"the map has room for {len(chosen)} regions only: ask for fewer")
    return _named(chosen, places)


def _named(chosen: Sequence[Place], places: Sequence[Place]) -> tuple[Region, ...]:
    demand = [0] * len(chosen)
    for place in places:
        nearest = max(range(len(chosen)), key=lambda i: _inner(chosen[i].vector, place.vector))
        demand[nearest] += place.weight
    total = sum(demand)
    numbers: Counter[str] = Counter()
    regions = []
    for site, weight in zip(chosen, demand, strict=True):
        country = site.position.country.lower()
        numbers[country] += 1
        regions.append(Region(f"{country}{numbers[country]}", site.position, site.vector, weight / total))
    return tuple(regions)


def _inner(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
