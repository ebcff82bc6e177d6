"""spread_candidates: few of each region, the best first, another region second."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from portway_geo.position import Position
from portway_registry.placement.order import MAX_OF_A_REGION, best_candidates, spread_candidates
from portway_registry.placement.placed_nodes import PlacedNode
from portway_registry.placement.places import Places
from portway_registry.placement.round_trips import Expected, Learned

PLACES = {
    "fra": Position(50, 9),
    "lon": Position(51, 0),
    "nyc": Position(41, -74),
    "syd": Position(-34, 151),
}
FRANKFURT = PLACES["fra"]


def _nodes(count: int, *regions: str, sessions: int = 0) -> list[PlacedNode]:
    return [
        PlacedNode(f"{region}-{number}", region, PLACES[region], sessions=sessions, max_sessions=10)
        for region in regions
        for number in range(count)
    ]


def _regions(places: Places, client: Position | None, limit: int = 8, learned: Learned | None = None) -> list[str]:
    found = spread_candidates(places, client, limit=limit, rng=random.Random(1), learned=learned or Learned())
    assert len({one.node.name for one in found}) == len(found)
    return [one.node.region for one in found]


def test_another_region_is_second_and_none_has_all() -> None:
    """However many nodes the nearest region has, the next ones have places beside it, the nearer ones first."""
    found = _regions(Places(_nodes(20, "syd", "nyc", "lon", "fra")), FRANKFURT)
    assert found == ["fra", "lon", "fra", "lon", "nyc", "nyc", "syd", "syd"]


def test_the_first_is_the_best_of_all() -> None:
    """Load and what was measured decide who that is, as they do without spreading."""
    full = _nodes(20, "fra", sessions=9) + _nodes(20, "lon")
    assert _regions(Places(full), FRANKFURT)[:2] == ["lon", "fra"]
    learned = Learned(places={("nyc", PLACES["nyc"]): Expected(1.0, True), ("fra", FRANKFURT): Expected(80.0, True)})
    assert _regions(Places(_nodes(3, "nyc", "fra", "lon")), FRANKFURT, learned=learned)[:2] == ["nyc", "lon"]


def test_where_there_is_one_region_it_has_all() -> None:
    """A mesh of one region names as many of its nodes as are asked for."""
    assert _regions(Places(_nodes(20, "fra")), FRANKFURT) == ["fra"] * 8


def test_few_regions_fill_up_with_the_nearest() -> None:
    """With two regions each has its share, and the rest are of the nearer one."""
    found = _regions(Places(_nodes(20, "fra", "nyc")), FRANKFURT)
    assert (found[:2], found.count("fra"), found.count("nyc")) == (["fra", "nyc"], 6, 2)


def test_a_client_without_a_place_gets_regions_far_apart() -> None:
    """It had one node of each region before."""
    assert set(_regions(Places(_nodes(20, "fra", "lon", "nyc", "syd")), None, limit=4)) == set(PLACES)


def test_nobody_who_takes_no_clients_is_named() -> None:
    """A full region is passed over."""
    nodes = _nodes(5, "fra", sessions=10) + _nodes(5, "lon", "nyc")
    assert _regions(Places(nodes), FRANKFURT)[:2] == ["lon", "nyc"]
    assert _regions(Places(_nodes(5, "fra", sessions=10)), FRANKFURT) == []


_MESH = st.lists(st.tuples(st.sampled_from(sorted(PLACES)), st.integers(0, 10)), max_size=30)


@given(mesh=_MESH, limit=st.integers(0, 10), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_spreading_loses_nobody(mesh: list[tuple[str, int]], limit: int, seed: int) -> None:
    """As many candidates as without it, the same cost in first place, and few of a region while others have more."""
    places = Places(
        PlacedNode(f"{region}-{number}", region, PLACES[region], sessions=sessions, max_sessions=10)
        for number, (region, sessions) in enumerate(mesh)
    )
    plain = best_candidates(places, FRANKFURT, limit=limit, rng=random.Random(seed))
    spread = spread_candidates(places, FRANKFURT, limit=limit, rng=random.Random(seed))
    assert len(spread) == len(plain)
    assert [one.cost_ms for one in spread[:1]] == [one.cost_ms for one in plain[:1]]
    able = [region for region, sessions in mesh if sessions < 10]
    named = [one.node.region for one in spread]
    room = sum(min(MAX_OF_A_REGION, able.count(region)) for region in set(able))
    if room >= limit:
        assert all(named.count(region) <= MAX_OF_A_REGION for region in named)
