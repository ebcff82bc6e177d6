"""Nodes that only load tells apart."""

import random
from collections import Counter

from portway_registry.placement.group import Group
from portway_registry.placement.node import PlacedNode


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
