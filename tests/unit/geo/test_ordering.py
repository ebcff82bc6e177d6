"""Orders of places: the nearest first, or far apart."""

from portway_geo.ordering import MAX_CACHED_ORDERS, FarApart, NearestFirst
from portway_geo.position import Position, distance_km, unit_vector

PLACES = {
    "fra": Position(50, 9),
    "lon": Position(51, 0),
    "par": Position(49, 2),
    "nyc": Position(41, -74),
    "syd": Position(-34, 151),
}


def far_apart() -> FarApart:
    return FarApart({name: unit_vector(position) for name, position in PLACES.items()})


def test_each_next_is_the_farthest_from_all_before() -> None:
    """From Frankfurt: the other side of the world, another continent, and the neighbours last."""
    assert list(far_apart().starting_at(0)) == ["fra", "syd", "nyc", "lon", "par"]


def test_every_start_reaches_everything_once() -> None:
    """An order has each region once, whichever it begins with; iterated again it is the same."""
    orders = far_apart()
    for start in range(len(PLACES)):
        order = list(orders.starting_at(start))
        assert sorted(order) == sorted(PLACES)
        assert order[0] == orders.names[start]
        assert list(orders.starting_at(start)) == order


def test_an_order_that_was_cut_short_is_continued() -> None:
    """What was worked out for one iteration serves the next."""
    orders = far_apart()
    short = orders.starting_at(1)
    first_two = [next(short), next(short)]
    assert list(orders.starting_at(1))[:2] == first_two


def nearest_first() -> NearestFirst:
    return NearestFirst([unit_vector(position) for position in PLACES.values()])


def test_the_nearest_place_is_first() -> None:
    """Each place once, with its distance; iterated again, and from the middle of another iteration, it is the same."""
    order = nearest_first().order_from(Position(48, 3))
    found = [(list(PLACES)[index], km) for index, km in order]
    assert [name for name, _ in found] == ["par", "lon", "fra", "nyc", "syd"]
    assert all(abs(km - distance_km(Position(48, 3), PLACES[name])) < 0.001 for name, km in found)
    fresh = nearest_first().order_from(Position(48, 3))
    one, other = iter(fresh), iter(fresh)
    assert [next(one), next(other), next(one), next(one), next(other)] == [
        list(order)[rank] for rank in (0, 0, 1, 2, 1)
    ]


def test_no_places_have_an_order() -> None:
    """An empty one."""
    assert list(NearestFirst([]).order_from(Position(0, 0))) == []


def test_the_orders_that_are_kept_are_bounded() -> None:
    """The least recently used go first; an order that is worked out again is the same."""
    places = nearest_first()
    first = list(places.order_from(Position(0, 0)))
    for number in range(MAX_CACHED_ORDERS + 100):
        places.order_from(Position(number % 90, number // 90))
    assert places.cached_orders == MAX_CACHED_ORDERS
    assert list(places.order_from(Position(0, 0))) == first
