"""Bounded maps: the oldest entry makes room, however entries come in."""

from collections.abc import Callable

import pytest
from portway_runtime.bounded import BoundedMap


def test_the_oldest_makes_room() -> None:
    """At most `capacity` entries, in the order in which they were set."""
    held = BoundedMap[str, int](2)
    held["a"], held["b"], held["c"] = 1, 2, 3
    assert list(held.items()) == [("b", 2), ("c", 3)]


def test_setting_a_key_again_makes_it_the_newest() -> None:
    """Nothing is evicted for a key that is there already."""
    evicted: list[str] = []
    held = BoundedMap[str, int](2, lambda key, value: evicted.append(key))
    held["a"], held["b"] = 1, 2
    held["a"] = 3
    assert evicted == []
    held["c"] = 4
    assert list(held.items()) == [("a", 3), ("c", 4)]


def test_looking_up_changes_nothing() -> None:
    """The order is that of setting, unless the owner moves a key."""
    held = BoundedMap[str, int](2)
    held["a"], held["b"] = 1, 2
    assert (held["a"], held.get("a"), "a" in held) == (1, 1, True)
    held["c"] = 3
    assert "a" not in held
    held.move_to_end("b")
    held["d"] = 4
    assert list(held) == ["b", "d"]


def test_the_owner_hears_of_each_entry_that_made_room() -> None:
    """Of what is evicted, after it is gone; not of what the owner takes out."""
    heard: list[tuple[str, int, bool]] = []
    held: BoundedMap[str, int] = BoundedMap(2, lambda key, value: heard.append((key, value, key in held)))
    held["a"], held["b"], held["c"] = 1, 2, 3
    del held["b"]
    held.pop("c")
    assert heard == [("a", 1, False)]


@pytest.mark.parametrize(
    "fill",
    [
        lambda held: held.update({1: 1, 2: 2, 3: 3}),
        lambda held: [held.setdefault(number, number) for number in (1, 2, 3)],
        lambda held: held.__ior__({1: 1, 2: 2, 3: 3}),
    ],
)
def test_the_bound_holds_for_every_way_in(fill: Callable[[BoundedMap[int, int]], object]) -> None:
    """`update`, `setdefault` and `|=` evict as assignment does."""
    held = BoundedMap[int, int](2)
    fill(held)
    assert list(held) == [2, 3]
