"""The speed of a download with and without an attack, on a machine where neighbours make it differ by a factor."""

import itertools
import os
from typing import cast

import pytest
from portway_testkit.visitors import siege
from portway_testkit.visitors.siege import Download, Figures, besiege


class Rounds:
    """Both the download and the attack. The speeds in peace follow each other again and again; an attack makes the
    middle between two of them `kept` times as high."""

    def __init__(self, peace: list[float], kept: float) -> None:
        self._peace = itertools.cycle(peace)
        self._kept = kept
        self._attacked = False

    def go(self) -> None:
        self._attacked = True

    def rest(self) -> None:
        self._attacked = False

    def speed(self) -> float:
        return self._kept * 300.0 if self._attacked else next(self._peace)


def figures(peace: list[float], kept: float) -> Figures:
    rounds = Rounds(peace, kept)
    return besiege(cast(Download, rounds), rounds, os.getpid(), 0.8, during=lambda: None)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has to settle."""
    monkeypatch.setattr(siege, "_SETTLING", 0.0)


@pytest.mark.parametrize("peace", [[300.0], [100.0, 900.0]], ids=["quiet", "busy"])
@pytest.mark.parametrize("kept", [1.0, 0.9, 0.5])
def test_what_neighbours_do_is_not_taken_for_the_attack(peace: list[float], kept: float) -> None:
    """Neither an attack that costs nothing nor one that costs half looks like another on a busy machine."""
    assert figures(peace, kept).ratio == pytest.approx(kept)
