"""Back-off: pauses that double up to a bound, each with jitter."""

import random
from itertools import islice

import pytest
from portway_runtime.backoff import Backoff, jittered


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)


@pytest.mark.usefixtures("no_jitter")
def test_pauses_double_up_to_the_longest() -> None:
    """The longest pause is kept from then on, whether or not doubling meets it exactly."""
    assert list(islice(Backoff(0.5, 3), 5)) == [0.5, 1, 2, 3, 3]


@pytest.mark.usefixtures("no_jitter")
def test_a_success_begins_anew() -> None:
    """After `reset` the first pause comes again."""
    pauses = Backoff(1, 60)
    assert [pauses.next(), pauses.next()] == [1, 2]
    pauses.reset()
    assert pauses.next() == 1


def test_each_pause_is_between_half_and_all_of_it() -> None:
    """Jitter is drawn for each pause, and does not change the next one."""
    for pause, longest in zip(Backoff(1, 8), [1, 2, 4, 8, 8, 8], strict=False):
        assert longest / 2 <= pause <= longest


def test_jitter_is_drawn_from_the_range_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default from half to all; the factors are the caller's otherwise."""
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    monkeypatch.setattr(random, "uniform", uniform)
    assert [jittered(10), jittered(10, 0.9, 1.1)] == [5, 9]
    assert asked == [(0.5, 1.0), (0.9, 1.1)]
