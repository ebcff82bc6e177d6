"""Facts that repeat: when they are logged."""

from portway_runtime.repeated import Repeated
from portway_testkit.fakes.clock import ManualClock


def test_a_fact_is_logged_at_once_and_then_once_a_minute_with_its_number() -> None:
    """What was not logged is counted in the next line; other facts are their own."""
    clock = ManualClock()
    facts = Repeated(clock)
    assert [facts.seen("one") for _ in range(5)] == [1, 0, 0, 0, 0]
    assert facts.seen(("two", 2)) == 1
    clock.now += 59.0
    assert facts.seen("one") == 0
    clock.now += 1.0
    assert [facts.seen("one") for _ in range(2)] == [6, 0]


def test_what_is_remembered_is_bounded() -> None:
    """Peers choose what they repeat."""
    facts = Repeated(ManualClock(), capacity=2)
    assert [facts.seen(number) for number in (1, 2, 3)] == [1, 1, 1]
    assert [facts.seen(number) for number in (3, 2, 1)] == [0, 0, 1]
    assert len(facts._facts) == 2
