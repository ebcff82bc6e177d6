"""Regions far apart first."""

from portway_geo.locator import Position
from portway_geo.ordering import Spread
from portway_geo.position import unit_vector

PLACES = {
    "fra": Position(50, 9),
    "lon": Position(51, 0),
    "par": Position(49, 2),
    "nyc": Position(41, -74),
    "syd": Position(-34, 151),
}


def spread() -> Spread:
    return Spread({name: unit_vector(position) for name, position in PLACES.items()})


def test_each_next_is_the_farthest_from_all_before() -> None:
    """From Frankfurt: the other side of the world, another continent, and the neighbours last."""
    assert list(spread().starting_at(0)) == ["fra", "syd", "nyc", "lon", "par"]


def test_every_start_reaches_everything_once() -> None:
    """A walk has each region once, whichever it began with; asked again it is the same."""
    walks = spread()
    for start in range(len(PLACES)):
        walk = list(walks.starting_at(start))
        assert sorted(walk) == sorted(PLACES)
        assert walk[0] == walks.names[start]
        assert list(walks.starting_at(start)) == walk


def test_a_walk_broken_off_is_gone_on_with() -> None:
    """What somebody asked for is kept for who asks for more."""
    walks = spread()
    short = walks.starting_at(1)
    first_two = [next(short), next(short)]
    assert list(walks.starting_at(1))[:2] == first_two
