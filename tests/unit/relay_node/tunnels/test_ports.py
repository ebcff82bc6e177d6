"""The account of raw ports: what is free, for whom, and from when on."""

import random

import pytest
from portway_relay.config import PortRange
from portway_relay.tunnels.ports import PortAccount
from portway_testkit.clock import ManualClock

REST = 60.0


def account(clock: ManualClock, first: int = 20_000, last: int = 20_009, seed: int = 1) -> PortAccount:
    return PortAccount(PortRange(first, last), REST, clock, random.Random(seed))


def free_for(ports: PortAccount, label: str) -> set[int]:
    return set(ports.candidates(label, None))


def test_every_port_is_offered_once(clock: ManualClock) -> None:
    """Whoever finds each one taken by another program has tried all, and none twice."""
    offered = list(account(clock).candidates("a", None))
    assert sorted(offered) == list(range(20_000, 20_010))


@pytest.mark.parametrize("seed", range(5))
def test_ports_come_in_no_order(clock: ManualClock, seed: int) -> None:
    """The first port offered says nothing of the next: it is drawn, from both ends of the range alike."""
    ports = account(clock, 20_000, 29_999, seed)
    first = [next(iter(ports.candidates("a", None))) for _ in range(50)]
    assert len(set(first)) > 45
    assert min(first) < 22_000
    assert max(first) > 28_000


def test_the_same_chance_gives_the_same_ports(clock: ManualClock) -> None:
    """A seeded source of chance makes an account repeatable."""
    assert list(account(clock, seed=7).candidates("a", None)) == list(account(clock, seed=7).candidates("a", None))


@pytest.mark.parametrize("wanted", [20_000, 20_004, 20_009])
def test_a_wanted_port_comes_first(clock: ManualClock, wanted: int) -> None:
    """A port that its label asks for is offered before any other, and once."""
    offered = list(account(clock).candidates("a", wanted))
    assert offered[0] == wanted
    assert len(offered) == 10


@pytest.mark.parametrize("wanted", [0, 19_999, 20_010, 443, 65_535])
def test_a_port_outside_the_range_is_never_offered(clock: ManualClock, wanted: int) -> None:
    """A ticket of another range asks in vain."""
    assert wanted not in set(account(clock).candidates("a", wanted))


def test_a_held_port_is_nobody_elses(clock: ManualClock) -> None:
    """Not even its own label is offered it twice."""
    ports = account(clock)
    ports.hold(20_003, "a")
    for label in ("a", "b"):
        assert 20_003 not in set(ports.candidates(label, 20_003))
    assert ports.held == 1


def test_a_port_rests_before_it_is_given_again(clock: ManualClock) -> None:
    """Who still has the old address in hand must not reach somebody else: only its own label has it at once."""
    ports = account(clock)
    ports.hold(20_003, "a")
    ports.let_go(20_003)
    assert (ports.held, ports.resting) == (0, 1)
    assert 20_003 not in set(ports.candidates("b", 20_003))
    assert next(iter(ports.candidates("a", 20_003))) == 20_003

    clock.now += REST - 0.001
    assert 20_003 not in free_for(ports, "b")
    clock.now += 0.001
    assert 20_003 in free_for(ports, "b")
    assert ports.resting == 0


def test_each_port_rests_for_its_own_time(clock: ManualClock) -> None:
    """One that was held again and let go rests from then on; others wake in between."""
    ports = account(clock)
    for port in (20_001, 20_002):
        ports.hold(port, "a")
        ports.let_go(port)
    clock.now += REST / 2
    ports.hold(20_001, "a")
    ports.let_go(20_001)
    clock.now += REST / 2
    assert ports.resting == 1
    assert {20_001, 20_002} & free_for(ports, "b") == {20_002}
    clock.now += REST / 2
    assert {20_001, 20_002} <= free_for(ports, "b")


def test_letting_go_of_what_is_not_held_does_nothing(clock: ManualClock) -> None:
    """A second goodbye neither begins a rest nor ends another's."""
    ports = account(clock)
    ports.let_go(20_003)
    assert ports.resting == 0
    ports.hold(20_003, "a")
    ports.let_go(20_003)
    clock.now += REST / 2
    ports.let_go(20_003)
    clock.now += REST / 2
    assert ports.resting == 0


def test_a_range_that_is_used_up_offers_nothing(clock: ManualClock) -> None:
    """With every port held or resting there is none, until one wakes."""
    ports = account(clock, 20_000, 20_001)
    ports.hold(20_000, "a")
    ports.hold(20_001, "b")
    assert free_for(ports, "c") == set()
    ports.let_go(20_001)
    assert free_for(ports, "c") == set()
    clock.now += REST
    assert free_for(ports, "c") == {20_001}


def test_the_last_free_port_of_many_is_found(clock: ManualClock) -> None:
    """Chance alone would miss it: the whole range is searched in the end."""
    ports = account(clock, 20_000, 29_999)
    for port in range(20_000, 30_000):
        if port != 23_456:
            ports.hold(port, "a")
    assert free_for(ports, "b") == {23_456}


def test_without_a_seed_ports_cannot_be_foretold(clock: ManualClock) -> None:
    """Two accounts of the same range, made alike, begin apart."""
    offers = {tuple(PortAccount(PortRange(20_000, 20_999), REST, clock).candidates("a", None))[:8] for _ in range(4)}
    assert len(offers) == 4
