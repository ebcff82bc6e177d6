"""A node as placement sees it, and nodes that only load tells apart."""

import random
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from portway_geo.position import Position
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NODE_STATE_READY, NodeInfo, NodeState
from portway_registry.placement.placed_nodes import FULL_VISITS, Group, PlacedNode, placed_node


def node(sessions: int = 0, max_sessions: int = 0, visits: int = 0, *, ready: bool = True) -> PlacedNode:
    return PlacedNode("a", "fra", None, ready, sessions, max_sessions, visits)


@pytest.mark.parametrize(
    ("placed", "takes"),
    [
        (node(), True),
        (node(sessions=10_000), True),
        (node(sessions=9, max_sessions=10), True),
        (node(sessions=10, max_sessions=10), False),
        (node(sessions=11, max_sessions=10), False),
        (node(ready=False), False),
    ],
)
def test_who_takes_clients(placed: PlacedNode, takes: bool) -> None:
    """A node that is ready and not full; 0 is no limit."""
    assert placed.takes_clients is takes


@pytest.mark.parametrize(
    ("placed", "penalty"),
    [
        (node(), 0),
        (node(sessions=5, max_sessions=10), 8),
        (node(sessions=9, max_sessions=10), 24),
        (node(visits=FULL_VISITS), 30),
        (node(visits=FULL_VISITS * 5), 30),
        (node(sessions=5, max_sessions=10, visits=FULL_VISITS), 30),
        (node(sessions=1, max_sessions=100), 0),
    ],
)
def test_load_costs_by_the_square(placed: PlacedNode, penalty: int) -> None:
    """Half full costs a quarter of full, whichever limit is nearer; a little load costs nothing."""
    assert placed.penalty_ms == penalty


@pytest.mark.parametrize(
    ("latitude", "longitude", "position"),
    [
        (50.1, 8.7, Position(50.1, 8.7)),
        (0.0, 0.0, None),
        (0.0, 8.7, Position(0.0, 8.7)),
        (91.0, 0.0, None),
        (0.0, -181.0, None),
        (float("nan"), 1.0, None),
    ],
)
def test_a_position_is_read_where_there_is_one(latitude: float, longitude: float, position: Position | None) -> None:
    """Both zero means unknown, and so do degrees that are none."""
    info = NodeInfo(name="a", region="fra", latitude=latitude, longitude=longitude, state=NODE_STATE_READY)
    assert placed_node(info).position == position


@pytest.mark.parametrize(
    ("state", "ready"),
    [(NODE_STATE_READY, True), (NODE_STATE_CORDONED, False), (NODE_STATE_DRAINING, False), (0, False)],
)
def test_only_a_ready_node_is_ready(state: "NodeState.ValueType", ready: bool) -> None:
    """Cordoned, draining and untold are not."""
    assert placed_node(NodeInfo(state=state)).ready is ready


def member(name: str, sessions: int = 0, *, ready: bool = True) -> PlacedNode:
    return PlacedNode(name, "fra", None, ready, sessions, max_sessions=10)


def order(group: Group, seed: int = 0) -> list[tuple[int, str]]:
    return [(penalty, found.name) for penalty, found in group.by_load(random.Random(seed))]


def test_the_least_loaded_come_first() -> None:
    """By penalty; those that take no clients are left out."""
    group = Group()
    for one in (member("busy", 9), member("idle"), member("half", 5), member("full", 10), member("away", ready=False)):
        group.put(one)
    assert order(group) == [(0, "idle"), (8, "half"), (24, "busy")]
    assert len(group) == 5


def test_equals_come_in_random_order() -> None:
    """Each of them comes first about as often, and each comes once."""
    group = Group()
    for number in range(4):
        group.put(member(str(number)))
    orders = [[name for _, name in order(group, seed)] for seed in range(2000)]
    assert all(sorted(one) == ["0", "1", "2", "3"] for one in orders)
    firsts = Counter(one[0] for one in orders)
    assert all(400 < times < 600 for times in firsts.values())
    assert len(firsts) == 4


def test_a_report_moves_a_node_between_tiers() -> None:
    """What is known of a node is replaced, its place with it; forgetting one twice is no error."""
    group = Group()
    group.put(member("a"))
    group.put(member("b", 5))
    assert order(group) == [(0, "a"), (8, "b")]
    group.put(member("a", 9))
    assert order(group) == [(8, "b"), (24, "a")]
    group.put(member("a", ready=False))
    assert order(group) == [(8, "b")]
    group.remove("b")
    group.remove("b")
    assert order(group) == []


def test_a_report_that_changes_no_tier_is_still_seen() -> None:
    """The nodes handed out are as last reported, though the tiers were not made anew."""
    group = Group()
    group.put(PlacedNode("a", "fra", None, sessions=1, max_sessions=1000))
    before = group.tiers
    group.put(PlacedNode("a", "fra", None, sessions=2, max_sessions=1000))
    assert group.tiers is before
    ((_, found),) = group.by_load(random.Random(0))
    assert found.sessions == 2


@given(
    sessions=st.lists(st.integers(0, 10), max_size=12),
    excluded=st.sets(st.integers(0, 11)),
    limit=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_the_least_are_the_first_by_load(sessions: list[int], excluded: set[int], limit: int, seed: int) -> None:
    """The same nodes in the same order, without the excluded ones, from the same random numbers."""
    group = Group()
    for number, held in enumerate(sessions):
        group.put(member(str(number), held))
    named = {str(number) for number in excluded}
    one, other = random.Random(seed), random.Random(seed)
    expected = list(islice((pair for pair in group.by_load(one) if pair[1].name not in named), limit))
    assert group.least_loaded(limit, other, named) == expected
    assert one.getstate() == other.getstate()
