"""The best candidates so far, while a search goes on."""

import random
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st
from portway_registry.placement.placed_nodes import Group, PlacedNode
from portway_registry.placement.shortlist import Shortlist


@given(
    sessions=st.lists(st.integers(0, 10), max_size=12),
    excluded=st.sets(st.integers(0, 11)),
    each=st.integers(1, 12),
    limit=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_a_shortlist_takes_a_group_as_it_takes_its_nodes(
    sessions: list[int], excluded: set[int], each: int, limit: int, seed: int
) -> None:
    """Offered at once or one by one, after another group and before it: the same candidates."""
    group = Group()
    for number, held in enumerate(sessions):
        group.put(PlacedNode(str(number), "fra", None, True, held, max_sessions=10))
    named = {str(number) for number in excluded}
    one, other = random.Random(seed), random.Random(seed)
    singly, together = Shortlist(limit, one), Shortlist(limit, other)
    for expected in (12.0, 5.4, 30.0):
        singly.offer(islice((pair for pair in group.by_load(one) if pair[1].name not in named), each), expected, 0.0)
        together.offer_group(group, each, named, expected, 0.0)
    assert together.candidates() == singly.candidates()
    assert together.worst == singly.worst
