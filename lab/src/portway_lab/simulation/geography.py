"""The map: places with their weight, and where an operator would put regions on it.

Places are the cells of the registry's own GeoIP table: whole degrees within a country. Not here: who is at a place
(clients.py), what lies between two of them (paths.py).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from portway_geo.position import EARTH_RADIUS_KM, Position, Vector, unit_vector
from portway_geo.table import IPV4_BITS, Table

from portway_lab.simulation.assumptions import MOST_OF_A_RUN

# Two regions are no nearer to each other than this: New York and Washington have one each, Brooklyn and Manhattan not.
_APART_KM = 300.0


@dataclass(frozen=True, slots=True)
class Place:
    """A cell; `weight` in /24s."""

    position: Position
    vector: Vector
    weight: int


@dataclass(frozen=True, slots=True)
class Region:
    """`demand`: the share of all weight that is nearest to it."""

    name: str
    position: Position
    vector: Vector
    demand: float


def places_of(table: Table) -> tuple[Place, ...]:
    """Every place with IPv4 addresses, the heaviest first."""
    runs = table.ipv4
    weights: Counter[int] = Counter()
    ends = [*runs.starts[1:], 1 << min(runs.step, IPV4_BITS)]
    for start, end, cell in zip(runs.starts, ends, runs.cells, strict=True):
        weights[cell] += min(end - start, MOST_OF_A_RUN)
    found = []
    for cell, weight in weights.most_common():
        position = table.positions[cell]
        if position is not None:
            found.append(Place(position, unit_vector(position), weight))
    return tuple(found)


def choose_regions(places: Sequence[Place], count: int) -> tuple[Region, ...]:
    """Where an operator would begin: at the heaviest places, no two of them close together.

    Raises ValueError when the map has not so many.
    """
    near = math.cos(_APART_KM / EARTH_RADIUS_KM)  # the inner product of unit vectors so far apart
    chosen: list[Place] = []
    for place in places:
        if len(chosen) == count:
            break
        if all(_inner(place.vector, other.vector) < near for other in chosen):
            chosen.append(place)
    if len(chosen) < count:
        raise ValueError(f"there is room for {len(chosen)} regions on the map: name no more")
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
