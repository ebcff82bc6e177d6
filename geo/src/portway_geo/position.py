"""Distances on the globe, and the round trips they stand for.

Here: geometry and the one formula from kilometres to milliseconds. Not here: load and choice (order.py).
"""

import math

from portway_geo.locator import Position

Vector = tuple[float, float, float]

EARTH_RADIUS_KM = 6371.0088  # mean radius of WGS 84 (IUGG)
# Light in glass: 299,792 km/s over the group index of ordinary single-mode fibre, 1.468, is 204 km a millisecond.
FIBRE_KM_PER_MS = 200.0
# Paths are longer than the great circle: "multiply line-of-sight distance by 2.1, then divide by the speed of light
# in fiber" is the rule of thumb that measurement campaigns suggest (Bozkurt et al., "Dissecting Latency in the
# Internet's Fiber Infrastructure", 2018). A factor for all does not change the order by distance; it weighs distance
# against load, and is what a client is told to expect.
PATH_STRETCH = 2.1


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
    """The round trip to expect over this distance, access networks and queues left out."""
    return PATH_STRETCH * light_round_trip_ms(km)


def light_round_trip_ms(km: float) -> float:
    """The least a round trip over this distance can take: straight fibre, nothing in between."""
    return 2 * km / FIBRE_KM_PER_MS
