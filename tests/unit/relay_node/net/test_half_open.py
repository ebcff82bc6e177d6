"""Half-open connections: which one is evicted, for one address and in all."""

from portway_relay.net.half_open import HalfOpenConnections
from portway_testkit.fakes.clock import ManualClock


def connections_of(
    clock: ManualClock, *, capacity: int, capacity_per_address: int, min_age: float = 0.0
) -> tuple[HalfOpenConnections[str], list[str]]:
    evicted: list[str] = []
    connections = HalfOpenConnections(capacity, capacity_per_address, evicted.append, clock, min_age=min_age)
    return connections, evicted


def test_the_oldest_is_evicted(clock: ManualClock) -> None:
    """In the order of arrival; those that are gone already are passed over."""
    connections, evicted = connections_of(clock, capacity=3, capacity_per_address=9)
    for number in range(3):
        assert connections.add(f"connection {number}", f"192.0.2.{number}")
    connections.discard("connection 0")
    assert connections.add("connection 3", "192.0.2.3")
    assert evicted == []
    assert connections.add("connection 4", "192.0.2.4")
    assert evicted == ["connection 1"]
    assert list(connections) == ["connection 2", "connection 3", "connection 4"]
    assert connections.evicted == 1


def test_an_address_at_its_limit_evicts_its_own_oldest(clock: ManualClock) -> None:
    """The limit of one address comes before the limit of all, and an IPv6 /64 is one address."""
    connections, evicted = connections_of(clock, capacity=9, capacity_per_address=2)
    connections.add("another's", "192.0.2.1")
    for number in range(3):
        assert connections.add(f"connection {number}", f"2001:db8::{number + 1}")
    assert evicted == ["connection 0"]
    assert "another's" in connections
    connections.discard("connection 1")
    assert connections.add("connection 3", "2001:db8::1")
    assert evicted == ["connection 0"]


def test_a_connection_below_the_minimum_age_is_not_evicted(clock: ManualClock) -> None:
    """Newcomers are rejected until it is old enough."""
    connections, evicted = connections_of(clock, capacity=1, capacity_per_address=1, min_age=2.0)
    assert connections.add("first", "192.0.2.1")
    clock.now += 1.9
    assert not connections.add("second", "192.0.2.1")
    assert not connections.add("third", "192.0.2.2")
    assert (list(connections), evicted) == (["first"], [])
    clock.now += 0.1
    assert connections.add("third", "192.0.2.2")
    assert (list(connections), evicted) == (["third"], ["first"])


def test_discarding_twice_is_discarding_once(clock: ManualClock) -> None:
    """A connection that was evicted is discarded by its owner too."""
    connections, _ = connections_of(clock, capacity=1, capacity_per_address=1)
    connections.add("first", "192.0.2.1")
    connections.add("second", "192.0.2.1")
    connections.discard("first")
    connections.discard("second")
    connections.discard("second")
    assert len(connections) == 0
    assert connections.add("third", "192.0.2.1")
    assert connections.evicted == 1
