"""The nodes known now, by place and by region."""

import random

from portway_geo.ordering import MAX_CACHED_ORDERS
from portway_geo.position import Position
from portway_registry.placement.order import best_candidates
from portway_registry.placement.placed_nodes import PlacedNode
from portway_registry.placement.places import Places

FRANKFURT, LONDON, YORK, SYDNEY = Position(50, 9), Position(51, 0), Position(41, -74), Position(-34, 151)


def node(name: str, position: Position | None, sessions: int = 0) -> PlacedNode:
    """In the region that its name begins with."""
    return PlacedNode(name, name.partition("-")[0], position, sessions=sessions, max_sessions=10)


WORLD = [node("syd-1", SYDNEY), node("lon-1", LONDON), node("nyc-1", YORK), node("fra-1", FRANKFURT)]


def test_places_follow_their_nodes() -> None:
    """Nodes that come, move, fill and go are in the next answer as they are."""
    places = Places()

    def found() -> list[str]:
        ranked = best_candidates(places, FRANKFURT, limit=8, rng=random.Random(0))
        return [one.node.name for one in ranked]

    places.put(node("lon-1", LONDON))
    places.put(node("fra-1", FRANKFURT))
    assert found() == ["fra-1", "lon-1"]
    places.put(node("fra-1", SYDNEY))
    assert found() == ["lon-1", "fra-1"]
    places.put(node("lon-1", LONDON, sessions=10))
    assert found() == ["fra-1"]
    places.put(node("lon-1", None))
    assert found() == ["fra-1", "lon-1"]
    places.remove("fra-1")
    places.remove("fra-1")
    assert found() == ["lon-1"]
    places.remove("lon-1")
    assert (found(), len(places)) == ([], 0)


def test_what_is_kept_for_answers_is_bounded() -> None:
    """However many places clients ask from, few orders of nodes are kept, and answers stay right."""
    places = Places(WORLD)
    for number in range(MAX_CACHED_ORDERS + 100):
        best_candidates(places, Position(number % 90, number // 90), limit=1, rng=random.Random(0))
    assert places.geometry.nearest.cached_orders == MAX_CACHED_ORDERS
    assert best_candidates(places, SYDNEY, limit=1, rng=random.Random(0))[0].node.name == "syd-1"


def test_regions_and_places_end_with_their_last_node() -> None:
    """And with its move to another place."""
    places = Places([node("fra-1", FRANKFURT), node("fra-2", FRANKFURT), node("lon-1", None)])
    assert {name: len(group) for name, group in places.regions.items()} == {"fra": 2, "lon": 1}
    assert places.geometry.unlocated_regions == ["lon"]
    places.put(node("lon-1", LONDON))
    assert places.place(("lon", None)) is None
    assert places.geometry.unlocated_regions == []
    places.remove("fra-1")
    assert places.place(("fra", FRANKFURT)) is not None
    places.remove("fra-2")
    assert places.place(("fra", FRANKFURT)) is None
    assert list(places.regions) == ["lon"]
    assert places.node("fra-2") is None
