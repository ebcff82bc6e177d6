"""Figures that have no opponent, beside what they should be.

Here: one figure, its bound, the table of them. Not here: measuring (idle_tunnels.py, mesh_near.py, mesh_far.py).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure; `bound` is None where nothing is demanded of it. `note` says what it was measured against."""

    title: str
    value: float
    unit: str
    bound: float | None = None
    at_most: bool = True
    note: str = ""

    @property
    def reached(self) -> bool:
        if self.bound is None:
            return True
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "reached": self.reached}


def table(of: str, goals: Sequence[Goal]) -> str:
    lines = [f"{of:<58} {'measured':>14} {'goal':>14}"]
    for goal in goals:
        sign = "≤" if goal.at_most else "≥"
        bound = "" if goal.bound is None else f"{sign} {_number(goal.bound)} {goal.unit}"
        verdict = "" if goal.reached else "  MISSED"
        note = f"  ({goal.note})" if goal.note else ""
        lines.append(f"{goal.title:<58} {f'{_number(goal.value)} {goal.unit}':>14} {bound:>14}{verdict}{note}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")
