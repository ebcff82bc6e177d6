"""A crowd: who makes room for whom, of one address and in all."""

from portway_relay.net.half_open import HalfOpenConnections
from portway_testkit.fakes.clock import ManualClock


def crowd_of(
    clock: ManualClock, *, most: int, most_of_one: int, patience: float = 0.0
) -> tuple[HalfOpenConnections[str], list[str]]:
    evicted: list[str] = []
    return HalfOpenConnections(most, most_of_one, evicted.append, clock, patience=patience), evicted


def test_the_oldest_makes_room(clock: ManualClock) -> None:
    """In the order in which they came; those that are gone are not asked."""
    crowd, evicted = crowd_of(clock, most=3, most_of_one=9)
    for number in range(3):
        assert crowd.add(f"connection {number}", f"192.0.2.{number}")
    crowd.discard("connection 0")
    assert crowd.add("connection 3", "192.0.2.3")
    assert evicted == []
    assert crowd.add("connection 4", "192.0.2.4")
    assert evicted == ["connection 1"]
    assert list(crowd) == ["connection 2", "connection 3", "connection 4"]
    assert crowd.evicted == 1


def test_one_address_makes_room_for_itself(clock: ManualClock) -> None:
    """Its own limit comes before everybody's, and an IPv6 customer is one address."""
    crowd, evicted = crowd_of(clock, most=9, most_of_one=2)
    crowd.add("another's", "192.0.2.1")
    for number in range(3):
        assert crowd.add(f"connection {number}", f"2001:db8::{number + 1}")
    assert evicted == ["connection 0"]
    assert "another's" in crowd
    crowd.discard("connection 1")
    assert crowd.add("connection 3", "2001:db8::1")
    assert evicted == ["connection 0"]


def test_with_patience_newcomers_wait_instead(clock: ManualClock) -> None:
    """Nobody is evicted who has just come; one that has been there for long is."""
    crowd, evicted = crowd_of(clock, most=1, most_of_one=1, patience=2.0)
    assert crowd.add("first", "192.0.2.1")
    clock.now += 1.9
    assert not crowd.add("second", "192.0.2.1")
    assert not crowd.add("third", "192.0.2.2")
    assert (list(crowd), evicted) == (["first"], [])
    clock.now += 0.1
    assert crowd.add("third", "192.0.2.2")
    assert (list(crowd), evicted) == (["third"], ["first"])


def test_going_twice_is_going_once(clock: ManualClock) -> None:
    """Whoever was evicted says goodbye too."""
    crowd, _ = crowd_of(clock, most=1, most_of_one=1)
    crowd.add("first", "192.0.2.1")
    crowd.add("second", "192.0.2.1")
    crowd.discard("first")
    crowd.discard("second")
    crowd.discard("second")
    assert len(crowd) == 0
    assert crowd.add("third", "192.0.2.1")
    assert crowd.evicted == 1
