"""Positions on the globe, the distance between them, and the round trip to expect over a distance."""

import math
from dataclasses import dataclass
from typing import Final

Vector = tuple[float, float, float]

EARTH_RADIUS_KM: Final = 6371.0088  # mean radius of WGS 84 (IUGG)
# Light in glass: 299,792 km/s over the group index of ordinary single-mode fibre, 1.468, is 204 km a millisecond.
FIBRE_KM_PER_MS: Final = 200.0
# Paths are longer than the great circle: "multiply line-of-sight distance by 2.1, then divide by the speed of light
# in fiber" is the rule of thumb that measurement campaigns suggest (Bozkurt et al., "Dissecting Latency in the
# Internet's Fiber Infrastructure", 2018). One factor for all pairs does not change their order by distance; it sets
# what a distance weighs against other costs, and the round trip that a client is told to expect.
PATH_STRETCH: Final = 2.1


@dataclass(frozen=True, slots=True)
class Position:
    """A point in degrees, and its country (ISO 3166-1 alpha-2, empty when unknown)."""

    latitude: float
    longitude: float
    country: str = ""


def unit_vector(position: Position) -> Vector:
    """The point of the unit sphere at a position."""
    latitude, longitude = math.radians(position.latitude), math.radians(position.longitude)
    ring = math.cos(latitude)
    return ring * math.cos(longitude), ring * math.sin(longitude), math.sin(latitude)


def vector_distance_km(a: Vector, b: Vector) -> float:
    """Great-circle distance of two unit vectors, from their chord: exact also for near neighbours."""
    return 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.dist(a, b) / 2))


def distance_km(a: Position, b: Position) -> float:
    """Great-circle distance of two positions."""
    return vector_distance_km(unit_vector(a), unit_vector(b))


def fibre_round_trip_ms(km: float) -> float:
    """The round trip to expect over this distance, without access networks and queues."""
    return PATH_STRETCH * light_round_trip_ms(km)


def light_round_trip_ms(km: float) -> float:
    """The lower bound of a round trip over this distance: a straight fibre with nothing in between."""
    return 2 * km / FIBRE_KM_PER_MS
