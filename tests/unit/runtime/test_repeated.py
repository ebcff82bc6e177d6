"""Facts that repeat: when they are told."""

from portway_runtime.repeated import Repeated
from portway_testkit.fakes.clock import ManualClock


def test_a_fact_is_told_at_once_and_then_less_and_less_often() -> None:
    """What was not told is counted, and told when it is due, whether it is seen again then or not; other facts are
    their own. After a time without it begins anew."""
    clock = ManualClock()
    facts = Repeated[str](clock)
    assert [facts.seen("one", str(number)) for number in range(5)] == [1, 0, 0, 0, 0]
    assert facts.seen(("two", 2), "two") == 1
    clock.now += 59.0
    assert facts.seen("one", "last") == 0
    assert facts.overdue() == []
    clock.now += 1.0
    assert [facts.seen("one", "x") for _ in range(2)] == [6, 0]
    clock.now += 119.0
    assert facts.overdue() == []
    clock.now += 1.0
    assert facts.overdue() == [("x", 1)]
    assert facts.overdue() == []
    clock.now += 240.0
    assert [facts.seen("one", "y") for _ in range(2)] == [1, 0]
    clock.now += 60.0
    assert facts.overdue() == [("y", 1)]


def test_it_is_told_once_an_hour_however_long_it_goes_on() -> None:
    """A day of it is some thirty lines, and none is lost from the count."""
    clock = ManualClock()
    facts = Repeated[None](clock)
    told = []
    for _ in range(24 * 360):
        told.append(facts.seen("one", None))
        clock.now += 10.0
    lines = [times for times in told if times]
    assert 25 <= len(lines) <= 32
    assert lines[-1] == 360
    assert sum(lines) + sum(times for _, times in facts.untold()) == 24 * 360
    assert facts.untold() == []


def test_what_is_remembered_is_bounded() -> None:
    """Peers choose what they repeat."""
    facts = Repeated[int](ManualClock(), capacity=2)
    assert [facts.seen(number, number) for number in (1, 2, 3)] == [1, 1, 1]
    assert [facts.seen(number, number) for number in (3, 2, 1)] == [0, 0, 1]
    assert len(facts._facts) == 2
