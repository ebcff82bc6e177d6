"""Figures of the mesh beside their goals."""

import pytest
from portway_lab.bench.report import Goal, goal_table


@pytest.mark.parametrize(
    ("value", "bound", "at_most", "reached"),
    [(1.0, 1.0, True, True), (1.01, 1.0, True, False), (0.6, 0.6, False, True), (0.59, 0.6, False, False)],
)
def test_a_bound_is_a_most_or_a_least(value: float, bound: float, at_most: bool, reached: bool) -> None:
    """The bound itself is reached; the table says MISSED exactly where it is not."""
    goal = Goal("how soon", value, "s", bound, at_most)
    assert goal.reached is reached
    assert ("MISSED" in goal_table("the mesh", [goal])) is not reached
    assert goal.to_json()["reached"] is reached


def test_a_figure_without_a_bound_is_only_shown() -> None:
    """It is there to compare with."""
    goal = Goal("for comparison", 316.4, "ms", note="at the home node")
    assert goal.reached
    assert goal_table("the mesh", [goal]).splitlines()[1].split() == [
        "for",
        "comparison",
        "316",
        "ms",
        "(at",
        "the",
        "home",
        "node)",
    ]
