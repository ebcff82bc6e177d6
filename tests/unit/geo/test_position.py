"""Distances on the globe, against ones that are known."""

import pytest
from portway_geo.position import Position, distance_km, fibre_round_trip_ms, light_round_trip_ms

FRANKFURT = Position(50.1109, 8.6821)
LONDON = Position(51.5074, -0.1278)
SYDNEY = Position(-33.8688, 151.2093)


@pytest.mark.parametrize(
    ("a", "b", "km"),
    [
        (FRANKFURT, LONDON, 637.3),
        (FRANKFURT, SYDNEY, 16_480),
        (Position(0, 0), Position(0, 180), 20_015),
        (Position(90, 0), Position(-90, 77), 20_015),
        (Position(0, 179.5), Position(0, -179.5), 111.2),
        (Position(90, 10), Position(90, -120), 0),
    ],
)
def test_great_circles_are_measured(a: Position, b: Position, km: float) -> None:
    """Known distances come out within 0.5 %, over the date line and the poles as well, in both directions."""
    assert distance_km(a, b) == pytest.approx(km, rel=0.005, abs=0.001)
    assert distance_km(b, a) == pytest.approx(distance_km(a, b))


def test_near_neighbours_are_told_apart() -> None:
    """A hundred metres are a hundred metres: the chord is exact where an arc cosine is not."""
    assert distance_km(Position(50, 8), Position(50.0009, 8)) == pytest.approx(0.1, rel=0.01)


def test_round_trips_grow_with_distance() -> None:
    """A thousand kilometres of straight fibre are 10 ms and back; paths are expected to be 2.1 times as long."""
    assert light_round_trip_ms(1000) == pytest.approx(10)
    assert fibre_round_trip_ms(1000) == pytest.approx(21)
    assert fibre_round_trip_ms(0) == 0
