"""The order in which a client should try the nodes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portway_geo.position import Position, distance_km, fibre_round_trip_ms
from portway_registry.placement.client_view import MAX_ACCESS_MS
from portway_registry.placement.order import MAX_OF_A_REGION, best_candidates, spread_candidates
from portway_registry.placement.placed_nodes import PlacedNode
from portway_registry.placement.places import Places
from portway_registry.placement.round_trips import NOTHING, Expected, Learned

FRANKFURT, LONDON, YORK, SYDNEY = Position(50, 9), Position(51, 0), Position(41, -74), Position(-34, 151)


def node(name: str, position: Position | None, sessions: int = 0, *, ready: bool = True) -> PlacedNode:
    """In the region that its name begins with."""
    return PlacedNode(name, name.partition("-")[0], position, ready, sessions, max_sessions=10)


WORLD = [node("syd-1", SYDNEY), node("lon-1", LONDON), node("nyc-1", YORK), node("fra-1", FRANKFURT)]


def names(
    client: Position | None,
    nodes: list[PlacedNode],
    *,
    region: str | None = None,
    limit: int = 8,
    seed: int = 0,
    learned: Learned = NOTHING,
) -> list[str]:
    found = best_candidates(Places(nodes), client, region=region, limit=limit, rng=random.Random(seed), learned=learned)
    return [one.node.name for one in found]


def test_the_nearest_come_first() -> None:
    """A located client gets the nodes by distance."""
    assert names(FRANKFURT, WORLD) == ["fra-1", "lon-1", "nyc-1", "syd-1"]
    assert names(SYDNEY, WORLD)[0] == "syd-1"
    assert names(FRANKFURT, WORLD, limit=2) == ["fra-1", "lon-1"]


def test_a_candidate_says_how_far_it_is() -> None:
    """Distance and expected round trip come with it; both are 0 for a client that is not located."""
    first, second = best_candidates(Places(WORLD), FRANKFURT, limit=2, rng=random.Random(0))
    assert (first.distance_km, first.expected_rtt_ms) == (0, 0)
    assert second.distance_km == pytest.approx(distance_km(FRANKFURT, LONDON))
    assert second.expected_rtt_ms == pytest.approx(fibre_round_trip_ms(second.distance_km))
    (lost,) = best_candidates(Places(WORLD), None, limit=1, rng=random.Random(0))
    assert (lost.distance_km, lost.expected_rtt_ms) == (0, 0)


def test_a_loaded_node_is_passed_by_a_near_idle_one() -> None:
    """Load moves a node behind another that is some hundred kilometres farther, and not behind one overseas."""
    nodes = [node("fra-1", FRANKFURT, sessions=9), node("lon-1", LONDON), node("nyc-1", YORK)]
    assert names(FRANKFURT, nodes) == ["lon-1", "fra-1", "nyc-1"]


def test_who_takes_no_clients_is_left_out() -> None:
    """Full, cordoned and draining nodes are no candidates, for any client."""
    nodes = [node("fra-1", FRANKFURT, sessions=10), node("lon-1", LONDON, ready=False), node("nyc-1", YORK)]
    assert names(FRANKFURT, nodes) == ["nyc-1"]
    assert names(None, nodes) == ["nyc-1"]


def test_a_region_is_kept_to() -> None:
    """Only nodes of the region asked for, wherever the client is, and none for a region that is not there."""
    for client in (FRANKFURT, None):
        assert names(client, WORLD, region="syd") == ["syd-1"]
        assert names(client, WORLD, region="mars") == []


def test_without_a_place_of_its_own_a_client_gets_regions_far_apart() -> None:
    """One node of each region first, neighbouring regions late, then second ones."""
    twice = [*WORLD, node("fra-2", FRANKFURT), node("syd-2", SYDNEY)]
    for seed in range(20):
        found = names(None, twice, seed=seed)
        assert len({name[:3] for name in found[:4]}) == 4
        assert {found[0][:3], found[1][:3]} & {"syd"}, "Sydney is far from everywhere"
        assert sorted(found) == sorted(one.name for one in twice)


def test_nodes_without_a_place_come_last_but_come() -> None:
    """A client that is located tries them after all that are located."""
    nodes = [*WORLD, node("x-1", None), node("x-2", None)]
    found = names(FRANKFURT, nodes)
    assert found[:4] == ["fra-1", "lon-1", "nyc-1", "syd-1"]
    assert sorted(found[4:]) == ["x-1", "x-2"]
    assert set(names(None, nodes)) == {one.name for one in nodes}


def test_equals_take_turns() -> None:
    """Nodes of one place and load are each first for a fair share of clients."""
    nodes = [node(f"fra-{number}", FRANKFURT) for number in range(4)]
    firsts = [names(FRANKFURT, nodes, seed=seed)[0] for seed in range(1000)]
    assert all(firsts.count(one.name) > 180 for one in nodes)


def test_no_nodes_and_no_limit_are_no_candidates() -> None:
    """An empty cluster and a limit of none are empty answers."""
    assert names(FRANKFURT, []) == names(None, []) == names(FRANKFURT, WORLD, limit=0) == []


def known(*places: tuple[PlacedNode, float], exact: bool = True, **nodes: float) -> Learned:
    """What clients near this one have measured, of places by one of their nodes, and of nodes by name."""
    return Learned(
        {one.place: Expected(ms, exact) for one, ms in places},
        {name.replace("_", "-"): Expected(ms, exact) for name, ms in nodes.items()},
    )


def test_what_was_measured_goes_before_distance() -> None:
    """A place that is near and slow comes after one that is farther and fast, and says so."""
    sydney, london, york, frankfurt = WORLD
    learned = known((frankfurt, 90), (london, 25))
    assert names(FRANKFURT, WORLD, learned=learned) == ["lon-1", "fra-1", "nyc-1", "syd-1"]
    first, second, third, _ = best_candidates(Places(WORLD), FRANKFURT, limit=8, rng=random.Random(0), learned=learned)
    assert [(one.expected_rtt_ms, one.learned) for one in (first, second)] == [(25, True), (90, True)]
    assert second.distance_km == 0
    assert first.distance_km == pytest.approx(distance_km(FRANKFURT, LONDON))
    assert not third.learned
    assert names(FRANKFURT, WORLD, learned=known((york, 1))) == ["fra-1", "nyc-1", "lon-1", "syd-1"]
    assert names(FRANKFURT, WORLD, learned=known((sydney, 0.2), (frankfurt, 3)), limit=1) == ["syd-1"]


def test_a_bound_moves_a_place_back_and_never_forward() -> None:
    """A node that was given up after some time is not nearer than that, and may be as far as its distance says."""
    sydney, _, _, frankfurt = WORLD
    assert names(FRANKFURT, WORLD, learned=known((frankfurt, 90), exact=False)) == ["lon-1", "fra-1", "nyc-1", "syd-1"]
    assert names(FRANKFURT, WORLD, learned=known((sydney, 1), exact=False)) == names(FRANKFURT, WORLD)


def test_load_counts_beside_what_was_measured() -> None:
    """A loaded node is passed by an idle one that is a little farther."""
    frankfurt, london = node("fra-1", FRANKFURT, sessions=9), node("lon-1", LONDON)
    assert names(FRANKFURT, [frankfurt, london], learned=known((frankfurt, 10), (london, 20))) == ["lon-1", "fra-1"]


def test_a_node_that_is_not_like_its_place_is_placed_by_itself() -> None:
    """The others of the place stay equals, before it."""
    nodes = [node("fra-1", FRANKFURT), node("fra-2", FRANKFURT), node("fra-3", FRANKFURT), node("lon-1", LONDON)]
    for learned in (known(fra_2=60), known((nodes[0], 4), fra_2=60)):
        firsts = [names(FRANKFURT, nodes, learned=learned, seed=seed) for seed in range(200)]
        assert {tuple(found[2:]) for found in firsts} == {("lon-1", "fra-2")}
        assert {found[0] for found in firsts} == {"fra-1", "fra-3"}


def test_who_takes_no_clients_is_left_out_however_near_it_was_measured() -> None:
    """Full, cordoned and draining nodes, those that are gone, and those of other regions."""
    nodes = [node("fra-1", FRANKFURT, sessions=10), node("lon-1", LONDON, ready=False), node("nyc-1", YORK)]
    learned = known(*((one, 1) for one in nodes), (node("mars-1", FRANKFURT), 1), fra_1=1, lon_1=1, gone_1=1)
    assert names(FRANKFURT, nodes, learned=learned) == ["nyc-1"]
    assert names(None, nodes, learned=learned) == ["nyc-1"]
    assert names(FRANKFURT, nodes, learned=learned, region="fra") == []
    assert names(FRANKFURT, WORLD, learned=known((WORLD[0], 1), lon_1=1), region="fra") == ["fra-1"]


def test_a_client_without_a_place_gets_what_was_measured_in_turn_with_what_was_not() -> None:
    """So that a nearer node can still be found by the race; each node once."""
    sydney, london, _, _ = WORLD
    learned = known((sydney, 80), (london, 9))
    for seed in range(20):
        found = names(None, WORLD, learned=learned, seed=seed)
        assert (found[0], found[2]) == ("lon-1", "syd-1")
        assert {found[1], found[3]} == {"fra-1", "nyc-1"}
        assert names(None, WORLD, learned=learned, seed=seed, region="lon") == ["lon-1"]
    assert len(names(None, WORLD, learned=known((london, 9), exact=False))) == 4


def test_a_node_without_a_place_takes_its_own_once_it_was_measured() -> None:
    """Before that a located client gets it last; a bound alone changes nothing."""
    nodes = [*WORLD, node("x-1", None), node("y-1", None)]
    found = names(FRANKFURT, nodes, learned=known((nodes[4], 2)))
    assert found == ["fra-1", "x-1", "lon-1", "nyc-1", "syd-1", "y-1"]
    assert names(FRANKFURT, nodes, learned=known((nodes[4], 2), exact=False))[-2:] in (["x-1", "y-1"], ["y-1", "x-1"])


positions = st.builds(Position, st.integers(-90, 90), st.integers(-180, 180))
nodes_of_a_world = st.lists(
    st.builds(
        PlacedNode,
        st.uuids().map(str),
        st.sampled_from(["fra", "lon", "syd"]),
        st.none() | positions,
        st.booleans(),
        st.integers(0, 10),
        st.just(10),
        st.integers(0, 20_000),
    ),
    max_size=25,
)


expectations = st.builds(Expected, st.integers(1, 400).map(float), st.booleans())


@settings(max_examples=150)
@given(
    nodes_of_a_world,
    positions,
    st.integers(1, 10),
    st.none() | st.sampled_from(["fra", "lon"]),
    st.integers(),
    st.lists(st.tuples(st.booleans(), st.integers(0, 24), expectations), max_size=8),
)
def test_the_walk_outwards_finds_what_sorting_finds(
    nodes: list[PlacedNode],
    client: Position,
    limit: int,
    region: str | None,
    seed: int,
    measured: list[tuple[bool, int, Expected]],
) -> None:
    """The costs are those of sorting every node that takes clients by round trip, measured or not, and load."""
    there = [(of_place, nodes[number], expected) for of_place, number, expected in measured if number < len(nodes)]
    learned = Learned(
        {one.place: expected for of_place, one, expected in there if of_place},
        {one.name: expected for of_place, one, expected in there if not of_place},
    )
    found = best_candidates(Places(nodes), client, region=region, limit=limit, rng=random.Random(seed), learned=learned)

    # What the client's own access adds, by the places that were measured.
    over = [
        expected.ms - fibre_round_trip_ms(distance_km(client, position))
        for (_, position), expected in learned.places.items()
        if expected.exact and position is not None
    ]
    access = min(MAX_ACCESS_MS, max(0.0, min(over, default=0.0)))

    def cost(one: PlacedNode) -> int | None:
        expected = learned.nodes.get(one.name) or learned.places.get(one.place)
        if one.position is None:
            return None if expected is None or not expected.exact else round(expected.ms) + one.penalty_ms
        estimate = fibre_round_trip_ms(distance_km(client, one.position)) + access
        return round(estimate if expected is None else expected.beside(estimate)) + one.penalty_ms

    fit = [one for one in nodes if one.takes_clients and region in (None, one.region)]
    costs = sorted(ms for one in fit if (ms := cost(one)) is not None)
    assert [one.cost_ms for one in found if cost(one.node) is not None] == costs[:limit]
    assert len(found) == min(limit, len(fit))
    assert len({one.node.name for one in found}) == len(found)
    anywhere = best_candidates(
        Places(nodes), None, region=region, limit=limit, rng=random.Random(seed), learned=learned
    )
    assert len({one.node.name for one in anywhere}) == len(anywhere) == min(limit, len(fit))


PLACES = {"fra": FRANKFURT, "lon": LONDON, "nyc": YORK, "syd": SYDNEY}


def nodes_of(count: int, *regions: str, sessions: int = 0) -> list[PlacedNode]:
    return [
        PlacedNode(f"{region}-{number}", region, PLACES[region], sessions=sessions, max_sessions=10)
        for region in regions
        for number in range(count)
    ]


def regions_of(places: Places, client: Position | None, limit: int = 8, learned: Learned | None = None) -> list[str]:
    found = spread_candidates(places, client, limit=limit, rng=random.Random(1), learned=learned or Learned())
    assert len({one.node.name for one in found}) == len(found)
    return [one.node.region for one in found]


def test_another_region_is_second_and_none_has_all() -> None:
    """However many nodes the nearest region has, the next ones have places beside it, the nearer ones first."""
    found = regions_of(Places(nodes_of(20, "syd", "nyc", "lon", "fra")), FRANKFURT)
    assert found == ["fra", "lon", "fra", "lon", "nyc", "nyc", "syd", "syd"]


def test_the_first_is_the_best_of_all() -> None:
    """Load and measurements decide which that is, as they do without spreading."""
    full = nodes_of(20, "fra", sessions=9) + nodes_of(20, "lon")
    assert regions_of(Places(full), FRANKFURT)[:2] == ["lon", "fra"]
    learned = Learned(places={("nyc", PLACES["nyc"]): Expected(1.0, True), ("fra", FRANKFURT): Expected(80.0, True)})
    assert regions_of(Places(nodes_of(3, "nyc", "fra", "lon")), FRANKFURT, learned=learned)[:2] == ["nyc", "lon"]


def test_where_there_is_one_region_it_has_all() -> None:
    """A mesh of one region names as many of its nodes as are asked for."""
    assert regions_of(Places(nodes_of(20, "fra")), FRANKFURT) == ["fra"] * 8


def test_few_regions_fill_up_with_the_nearest() -> None:
    """With two regions each has its share, and the rest are of the nearer one."""
    found = regions_of(Places(nodes_of(20, "fra", "nyc")), FRANKFURT)
    assert (found[:2], found.count("fra"), found.count("nyc")) == (["fra", "nyc"], 6, 2)


def test_a_client_without_a_place_gets_regions_far_apart() -> None:
    """It had one node of each region before."""
    assert set(regions_of(Places(nodes_of(20, "fra", "lon", "nyc", "syd")), None, limit=4)) == set(PLACES)


def test_only_nodes_that_take_clients_are_candidates() -> None:
    """A full region is passed over."""
    nodes = nodes_of(5, "fra", sessions=10) + nodes_of(5, "lon", "nyc")
    assert regions_of(Places(nodes), FRANKFURT)[:2] == ["lon", "nyc"]
    assert regions_of(Places(nodes_of(5, "fra", sessions=10)), FRANKFURT) == []


worlds_of_regions = st.lists(st.tuples(st.sampled_from(sorted(PLACES)), st.integers(0, 10)), max_size=30)


@given(mesh=worlds_of_regions, limit=st.integers(0, 10), seed=st.integers(0, 99))
@settings(max_examples=100)
def test_spreading_loses_no_candidate(mesh: list[tuple[str, int]], limit: int, seed: int) -> None:
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
