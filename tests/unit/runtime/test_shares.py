"""Shares of something scarce, by prefix of address, and a queue in which prefixes take turns."""

import pytest
from portway_runtime.shares import PrefixShares
from portway_testkit.fakes.clock import ManualClock

CAPACITY = 1_000


def taken(shares: PrefixShares, addresses: list[str], tries: int) -> dict[str, int]:
    """How many units each of these addresses has when all ask in turn, so many times."""
    got = dict.fromkeys(addresses, 0)
    for _ in range(tries):
        for address in addresses:
            got[address] += shares.take(address)
    return got


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_one_that_comes_alone_gets_most(clock: ManualClock, address: str) -> None:
    """Three quarters of all, and what it is refused changes nothing."""
    shares = PrefixShares(CAPACITY, clock)
    assert taken(shares, [address], 2 * CAPACITY)[address] == pytest.approx(0.76 * CAPACITY, rel=0.02)
    assert shares.held == pytest.approx(0.76 * CAPACITY, rel=0.02)


def test_several_get_equal_parts(clock: ManualClock) -> None:
    """Four networks have nine tenths of all among them."""
    addresses = [f"192.0.{network}.1" for network in range(4)]
    got = taken(PrefixShares(CAPACITY, clock), addresses, CAPACITY)
    assert max(got.values()) - min(got.values()) <= 1
    assert sum(got.values()) > 0.9 * CAPACITY


@pytest.mark.parametrize("networks", [1, 4, 24])
def test_who_comes_later_gets_a_part(clock: ManualClock, networks: int) -> None:
    """While others have taken all that they can get: a few units at least."""
    shares = PrefixShares(CAPACITY, clock)
    taken(shares, [f"192.0.{network}.1" for network in range(networks)], CAPACITY)
    assert taken(shares, ["198.51.100.1"], 8) == {"198.51.100.1": 8}


@pytest.mark.parametrize("around", ["192.0.2.{}", "2001:db8:0:{}::1", "2001:db8:0:{}00::1"])
def test_many_addresses_of_one_network_have_one_share(clock: ManualClock, around: str) -> None:
    """Four fifths of all, whatever their number, in equal parts; a neighbour has the next unit that is free."""
    shares = PrefixShares(CAPACITY, clock)
    got = taken(shares, [around.format(number) for number in range(20)], CAPACITY)
    assert sum(got.values()) <= 0.81 * CAPACITY
    assert max(got.values()) - min(got.values()) <= 1
    shares.give_back(around.format(1))
    assert shares.take(around.format(77))
    assert taken(shares, ["198.51.100.1"], CAPACITY)["198.51.100.1"] > CAPACITY / 8


def test_what_is_given_back_is_free_again(clock: ManualClock) -> None:
    """And a prefix that holds nothing is forgotten."""
    shares = PrefixShares(2, clock)
    assert taken(shares, ["192.0.2.1"], 3) == {"192.0.2.1": 2}
    shares.give_back("192.0.2.1")
    assert shares.take("192.0.2.1")
    for _ in range(3):
        shares.give_back("192.0.2.1")
    assert shares.held == 0
    assert not shares._by_prefix


def test_what_is_held_decays_within_the_window(clock: ManualClock) -> None:
    """So that `capacity` units for each window can be taken in the long run; without one nothing decays."""
    shares = PrefixShares(CAPACITY, clock, window=4)
    forever = PrefixShares(CAPACITY, clock)
    taken(shares, ["192.0.2.1"], CAPACITY)
    taken(forever, ["192.0.2.1"], CAPACITY)
    clock.now += 4
    assert shares.held == pytest.approx(0.28 * CAPACITY, rel=0.02)
    assert forever.held == pytest.approx(0.76 * CAPACITY, rel=0.02)
    got = 0
    for _ in range(400):
        clock.now += 0.1
        got += taken(shares, ["192.0.2.1", "192.0.3.1"], CAPACITY // 20)["192.0.2.1"]
    assert got == pytest.approx(0.87 * CAPACITY / 4 * 40 / 2, rel=0.05)


def test_the_first_one_of_a_network_is_free(clock: ManualClock) -> None:
    """Where that is asked for: a crowd from everywhere is not refused for being one."""
    shares = PrefixShares(10, clock, first_is_free=True)
    crowd = [f"10.{number}.0.1" for number in range(100)]
    assert taken(shares, crowd, 1) == dict.fromkeys(crowd, 1)
    assert not shares.has_room(crowd[0])
    assert not any(taken(PrefixShares(10, clock), crowd, 1)[address] for address in crowd[10:])
