"""Where clients are: prefixes with a true position, and the position that GeoIP gives each.

The registry sees the position of the table; the true one is drawn around it by the errors in assumptions.py. The error
is one of the whole prefix, as the entry in the table is. Not here: round trips (paths.py).
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Final

from portway_geo.position import EARTH_RADIUS_KM, Position, Vector, unit_vector

from portway_lab.simulation.assumptions import (
    ACCESS_MEDIAN_MS,
    ACCESS_SPREAD,
    CLIENTS_PER_PREFIX,
    DATA_CENTRE_MS,
    ELSEWHERE,
    IN_DATA_CENTRES,
    MISPLACED_AFRICA,
    MISPLACED_ELSEWHERE,
    MISPLACED_MEDIAN_KM,
    MISPLACED_SPREAD,
    MISPLACED_WELL_MAPPED,
    NETWORKS_PER_PLACE,
    UNLOCATED,
)
from portway_lab.simulation.geography import Place

_AFRICA: Final = (
    "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR MU MW MZ NA NE NG "
    "RE RW SC SD SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW"
)
# Europe without its east outside the EU, North America, Australia and New Zealand.
_WELL_MAPPED: Final = (
    "AD AT AU BE BG CA CH CY CZ DE DK EE ES FI FR GB GR HR HU IE IS IT JE LI LT LU LV MC MT NL NO NZ PL PT RO SE SI SK "
    "SM US VA"
)


class Located(Enum):
    """How well GeoIP knows a prefix."""

    WELL = "in its cell"
    MISPLACED = "misplaced"
    ELSEWHERE = "another place of the world"
    NOT = "not located"


@dataclass(frozen=True, slots=True)
class Prefix:
    """`guess` is the position by the registry's locator; `network` is a number for its place and its routes from
    there."""

    number: int
    network: int
    vector: Vector
    guess: Position | None
    located: Located
    access_ms: float


def draw_prefixes(places: Sequence[Place], clients: int, rng: random.Random) -> list[Prefix]:
    """Draw enough prefixes for `clients` clients, by the weights of the places."""
    count = max(1, clients // CLIENTS_PER_PREFIX)
    cumulative = list(accumulate(place.weight for place in places))
    chosen = rng.choices(range(len(places)), cum_weights=cumulative, k=count)
    others = rng.choices(range(len(places)), cum_weights=cumulative, k=count)
    return [
        _draw(number, places, index, places[other], rng)
        for number, (index, other) in enumerate(zip(chosen, others, strict=True))
    ]


def misplaced_share(country: str) -> float:
    """The share of a country's prefixes that GeoIP puts in the wrong place."""
    if country in _AFRICA.split():
        return MISPLACED_AFRICA
    return MISPLACED_WELL_MAPPED if country in _WELL_MAPPED.split() else MISPLACED_ELSEWHERE


def _draw(number: int, places: Sequence[Place], index: int, other: Place, rng: random.Random) -> Prefix:
    said = places[index].position
    guess: Position | None = said
    located = Located.WELL
    true = _within_cell(said, rng)
    chance = rng.random()
    if chance < UNLOCATED:
        located, guess = Located.NOT, None
    elif chance < UNLOCATED + ELSEWHERE:
        located, true = Located.ELSEWHERE, _within_cell(other.position, rng)
    elif rng.random() < misplaced_share(said.country):
        km = MISPLACED_MEDIAN_KM * rng.lognormvariate(0.0, MISPLACED_SPREAD)
        located, true = Located.MISPLACED, _displaced(true, km, rng.uniform(0.0, math.tau))
    network = index * NETWORKS_PER_PLACE + rng.randrange(NETWORKS_PER_PLACE)
    return Prefix(number, network, unit_vector(true), guess, located, _access_ms(rng))


def _within_cell(cell: Position, rng: random.Random) -> Position:
    """A random position that rounds to these whole degrees."""
    latitude = min(90.0, max(-90.0, cell.latitude + rng.uniform(-0.5, 0.5)))
    return Position(latitude, cell.longitude + rng.uniform(-0.5, 0.5), cell.country)


def _displaced(start: Position, km: float, bearing: float) -> Position:
    """The position `km` away along a great circle, at most half the globe."""
    arc = min(math.pi, km / EARTH_RADIUS_KM)
    latitude, longitude = math.radians(start.latitude), math.radians(start.longitude)
    sine = math.sin(latitude) * math.cos(arc) + math.cos(latitude) * math.sin(arc) * math.cos(bearing)
    end = math.asin(max(-1.0, min(1.0, sine)))
    turned = math.atan2(
        math.sin(bearing) * math.sin(arc) * math.cos(latitude), math.cos(arc) - math.sin(latitude) * math.sin(end)
    )
    return Position(math.degrees(end), math.degrees(longitude + turned), start.country)


def _access_ms(rng: random.Random) -> float:
    if rng.random() < IN_DATA_CENTRES:
        return DATA_CENTRE_MS
    return ACCESS_MEDIAN_MS * rng.lognormvariate(0.0, ACCESS_SPREAD)
