"""Half-open connections: which one is evicted, for one address and in all."""

import random
from collections import Counter

import pytest
from portway_runtime.half_open import HalfOpenConnections
from portway_testkit.fakes.clock import ManualClock


def connections_of(
    clock: ManualClock, *, capacity: int, capacity_per_address: int, min_age: float = 0.0
) -> tuple[HalfOpenConnections[str], list[str]]:
    evicted: list[str] = []
    connections = HalfOpenConnections(capacity, capacity_per_address, evicted.append, clock, min_age=min_age)
    return connections, evicted


def test_of_addresses_with_as_many_the_oldest_is_evicted(clock: ManualClock) -> None:
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


def test_the_address_that_holds_most_makes_room(clock: ManualClock) -> None:
    """Not the oldest of all, which is another's."""
    connections, evicted = connections_of(clock, capacity=4, capacity_per_address=9)
    connections.add("another's", "192.0.2.1")
    for number in range(3):
        connections.add(f"connection {number}", "192.0.2.2")
    assert connections.add("newcomer", "192.0.2.3")
    assert evicted == ["connection 0"]
    connections.discard("connection 1")
    connections.discard("connection 2")
    for number in range(2):
        assert connections.add(f"later {number}", "192.0.2.1")
    assert connections.add("the last", "192.0.2.4")
    assert evicted == ["connection 0", "another's"]


@pytest.mark.parametrize(
    "crowd",
    [
        [f"192.0.2.{number}" for number in range(1, 7)],
        [f"2001:db8:0:{number:x}::1" for number in range(1, 7)],  # of one /56
        [f"2001:db8:0:{number << 8:x}::1" for number in range(1, 7)],  # of one /48
    ],
)
def test_a_prefix_that_holds_too_many_makes_room_at_once(clock: ManualClock, crowd: list[str]) -> None:
    """Its addresses have few each, and all are young: those of other prefixes get in nevertheless, until both hold
    about as many. Newcomers of its own wait for the minimum age."""
    connections, evicted = connections_of(clock, capacity=12, capacity_per_address=9, min_age=2.0)
    for number in range(12):
        assert connections.add(f"{number}", crowd[number % 6])
    assert not connections.add("of the crowd", crowd[0])
    for number in range(4):
        assert connections.add(f"other {number}", "198.51.100.1")
    assert not connections.add("other 4", "198.51.100.1")
    assert evicted == ["0", "1", "2", "3"]
    assert len(connections) == 12
    assert connections.add("a third", "2001:db8:1::1")
    clock.now += 2.0
    assert connections.add("of the crowd", crowd[0])


def test_room_can_be_made_before_the_limit(clock: ManualClock) -> None:
    """The connection that would be evicted at the limit goes, and none when there is none."""
    connections, evicted = connections_of(clock, capacity=9, capacity_per_address=9)
    assert not connections.evict_for("192.0.2.1")
    for number in range(3):
        connections.add(f"{number}", "192.0.2.1")
    connections.add("other", "198.51.100.1")
    assert connections.evict_for("198.51.100.2")
    assert evicted == ["0"]


def test_counts_are_right_whatever_comes_and_goes(clock: ManualClock) -> None:
    """The fullest prefix is found after any order of arrivals and departures; nothing is left of those that went."""
    chance = random.Random(1)
    connections, evicted = connections_of(clock, capacity=20, capacity_per_address=6)
    here: dict[str, str] = {}
    for number in range(3_000):
        if here and chance.random() < 0.4:
            gone = chance.choice(sorted(here))
            connections.discard(gone)
            del here[gone]
            continue
        address = f"192.0.{chance.randrange(4)}.{chance.randrange(4)}"
        by_network = Counter(one.rpartition(".")[0] for one in here.values())
        full = len(here) == 20 and Counter(here.values())[address] < 6
        assert connections.add(f"{number}", address)
        while evicted:
            network = here.pop(evicted.pop()).rpartition(".")[0]
            assert not full or by_network[network] == max(by_network.values())
        here[f"{number}"] = address
        assert sorted(connections) == sorted(here)
    for one in here:
        connections.discard(one)
    assert not connections._counts
    assert not connections._by_address
