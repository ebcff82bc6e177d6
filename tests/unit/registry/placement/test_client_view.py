"""What a client is to expect of places that were measured near it, and of the others."""

import random

import pytest
from portway_geo.position import Position, distance_km, fibre_round_trip_ms
from portway_registry.placement.order import best_candidates
from portway_registry.placement.placed_nodes import PlacedNode
from portway_registry.placement.places import Places
from portway_registry.placement.round_trips import Expected, Learned

FRANKFURT, LONDON, YORK, SYDNEY = Position(50, 9), Position(51, 0), Position(41, -74), Position(-34, 151)


def node(name: str, position: Position | None, sessions: int = 0) -> PlacedNode:
    """In the region that its name begins with."""
    return PlacedNode(name, name.partition("-")[0], position, sessions=sessions, max_sessions=10)


WORLD = [node("syd-1", SYDNEY), node("lon-1", LONDON), node("nyc-1", YORK), node("fra-1", FRANKFURT)]


def names(learned: Learned) -> list[str]:
    found = best_candidates(Places(WORLD), FRANKFURT, limit=8, rng=random.Random(0), learned=learned)
    return [one.node.name for one in found]


def test_what_the_client_s_own_access_adds_is_added_to_every_estimate() -> None:
    """Every measurement contains a slow line's delay, so it is added where nothing was measured."""
    slow_line = Learned(places={("fra", FRANKFURT): Expected(20.0, True)})
    assert names(slow_line)[:2] == ["fra-1", "lon-1"]
    _, london = best_candidates(Places(WORLD), FRANKFURT, limit=2, rng=random.Random(0), learned=slow_line)
    assert london.expected_rtt_ms == pytest.approx(20 + fibre_round_trip_ms(distance_km(FRANKFURT, LONDON)))


def test_a_client_that_is_far_from_everything_is_not_where_it_is_thought_to_be() -> None:
    """An excess above MAX_ACCESS_MS means that its position is wrong, so places that were never tried come first."""
    elsewhere = Learned(places={("fra", FRANKFURT): Expected(150.0, True)})
    assert names(elsewhere)[0] == "lon-1"
