"""Nodes that only load tells apart."""

import random
from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st
from portway_registry.placement.group import Group
from portway_registry.placement.placed_nodes import PlacedNode
from portway_registry.placement.shortlist import Shortlist


def node(name: str, sessions: int = 0, *, ready: bool = True) -> PlacedNode:
    return PlacedNode(name, "fra", None, ready, sessions, max_sessions=10)


def order(group: Group, seed: int = 0) -> list[tuple[int, str]]:
    return [(penalty, found.name) for penalty, found in group.by_load(random.Random(seed))]


def test_the_least_loaded_come_first() -> None:
    """By penalty; those that take no clients are left out."""
    group = Group()
    for one in (node("busy", 9), node("idle"), node("half", 5), node("full", 10), node("away", ready=False)):
        group.put(one)
    assert order(group) == [(0, "idle"), (8, "half"), (24, "busy")]
    assert len(group) == 5


def test_equals_come_in_random_order() -> None:
    """Each of them comes first about as often, and each comes once."""
    group = Group()
    for number in range(4):
        group.put(node(str(number)))
    orders = [[name for _, name in order(group, seed)] for seed in range(2000)]
    assert all(sorted(one) == ["0", "1", "2", "3"] for one in orders)
    firsts = Counter(one[0] for one in orders)
    assert all(400 < times < 600 for times in firsts.values())
    assert len(firsts) == 4


def test_a_report_moves_a_node_between_tiers() -> None:
    """What is known of a node is replaced, its place with it; forgetting one twice is no error."""
    group = Group()
    group.put(node("a"))
    group.put(node("b", 5))
    assert order(group) == [(0, "a"), (8, "b")]
    group.put(node("a", 9))
    assert order(group) == [(8, "b"), (24, "a")]
    group.put(node("a", ready=False))
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
    apart=st.sets(st.integers(0, 11)),
    most=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_the_least_are_the_first_by_load(sessions: list[int], apart: set[int], most: int, seed: int) -> None:
    """The same nodes in the same order, without those that are named, and chance is asked as often."""
    group = Group()
    for number, held in enumerate(sessions):
        group.put(node(str(number), held))
    named = {str(number) for number in apart}
    one, other = random.Random(seed), random.Random(seed)
    expected = list(islice((pair for pair in group.by_load(one) if pair[1].name not in named), most))
    assert group.least(most, other, named) == expected
    assert one.getstate() == other.getstate()


@given(
    sessions=st.lists(st.integers(0, 10), max_size=12),
    apart=st.sets(st.integers(0, 11)),
    most=st.integers(1, 12),
    limit=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_a_shortlist_takes_a_group_as_it_takes_its_nodes(
    sessions: list[int], apart: set[int], most: int, limit: int, seed: int
) -> None:
    """Offered at once or one by one, after another group and before it: the same candidates."""
    group = Group()
    for number, held in enumerate(sessions):
        group.put(node(str(number), held))
    named = {str(number) for number in apart}
    one, other = random.Random(seed), random.Random(seed)
    singly, together = Shortlist(limit, one), Shortlist(limit, other)
    for expected in (12.0, 5.4, 30.0):
        singly.offer(islice((pair for pair in group.by_load(one) if pair[1].name not in named), most), expected, 0.0)
        together.offer_least(group, most, named, expected, 0.0)
    assert together.ranked() == singly.ranked()
    assert together.worst == singly.worst
