"""The account of raw ports: what is free, for whom, and from when on."""

import pytest
from portway_relay.config import PortRange
from portway_relay.raw_ports.account import Block, PortAccount
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.raw_ports import REST, own_ports

FRESH = Block(PortRange(20_000, 20_009), fresh=True)
OLD = Block(PortRange(20_000, 20_009), fresh=False)
OTHERS = 20_500  # a port of the region that is in no block of this node's


def account(clock: ManualClock, first: int = 20_000, last: int = 20_009, seed: int = 1) -> PortAccount:
    return own_ports(PortRange(first, last), clock, seed=seed)


def in_region(clock: ManualClock, *blocks: Block, siblings: dict[int, str] | None = None) -> PortAccount:
    """An account of a region with more ports than this node's blocks; `siblings` have these."""
    at_sibling = (siblings or {}).get
    ports = PortAccount(PortRange(20_000, 20_999), REST, clock, at_sibling=at_sibling)
    ports.reserved(blocks, {})
    return ports


def free_for(ports: PortAccount, label: str) -> set[int]:
    return set(ports.candidates(label, None))


def wake(ports: PortAccount, clock: ManualClock, **held: str) -> None:
    """A registry is asked now, and knows of no tunnel with one of the ports but these."""
    ports.confirmed(clock.now, {int(port.removeprefix("port_")): label for port, label in held.items()})


def may_have(ports: PortAccount, label: str, port: int) -> bool:
    """Whether a label that shows a ticket gets the port of its ticket."""
    return next(iter(ports.candidates(label, port)), None) == port


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
    ports.release(20_003)
    assert (ports.held, ports.resting) == (0, 1)
    assert 20_003 not in set(ports.candidates("b", 20_003))
    assert next(iter(ports.candidates("a", 20_003))) == 20_003

    clock.now += REST - 0.001
    wake(ports, clock)
    assert 20_003 not in free_for(ports, "b")
    clock.now += 0.001
    wake(ports, clock)
    assert 20_003 in free_for(ports, "b")
    assert ports.resting == 0


def test_each_port_rests_for_its_own_time(clock: ManualClock) -> None:
    """One that was held again and let go rests from then on; others wake in between."""
    ports = account(clock)
    for port in (20_001, 20_002):
        ports.hold(port, "a")
        ports.release(port)
    clock.now += REST / 2
    ports.hold(20_001, "a")
    ports.release(20_001)
    clock.now += REST / 2
    wake(ports, clock)
    assert ports.resting == 1
    assert {20_001, 20_002} & free_for(ports, "b") == {20_002}
    clock.now += REST / 2
    wake(ports, clock)
    assert {20_001, 20_002} <= free_for(ports, "b")


def test_letting_go_of_what_is_not_held_does_nothing(clock: ManualClock) -> None:
    """A second goodbye neither begins a rest nor ends another's."""
    ports = account(clock)
    ports.release(20_003)
    assert ports.resting == 0
    ports.hold(20_003, "a")
    ports.release(20_003)
    clock.now += REST / 2
    ports.release(20_003)
    clock.now += REST / 2
    wake(ports, clock)
    assert ports.resting == 0


def test_a_range_that_is_used_up_offers_nothing(clock: ManualClock) -> None:
    """With every port held or resting there is none, until one wakes."""
    ports = account(clock, 20_000, 20_001)
    ports.hold(20_000, "a")
    ports.hold(20_001, "b")
    assert free_for(ports, "c") == set()
    ports.release(20_001)
    assert free_for(ports, "c") == set()
    clock.now += REST
    wake(ports, clock)
    assert free_for(ports, "c") == {20_001}


def test_the_last_free_port_of_many_is_found(clock: ManualClock) -> None:
    """However many are held."""
    ports = account(clock, 20_000, 29_999)
    for port in range(20_000, 30_000):
        if port != 23_456:
            ports.hold(port, "a")
    assert free_for(ports, "b") == {23_456}


def test_without_a_seed_ports_cannot_be_foretold(clock: ManualClock) -> None:
    """Two accounts of the same range, made alike, begin apart."""
    offers = {tuple(own_ports(PortRange(20_000, 20_999), clock, seed=None).candidates("a", None))[:8] for _ in range(4)}
    assert len(offers) == 4


def test_ports_are_given_of_own_blocks_alone(clock: ManualClock) -> None:
    """Another node of the region gives the rest of it, so that no port is given twice."""
    ports = in_region(clock, FRESH)
    assert free_for(ports, "a") == set(range(20_000, 20_010))
    assert not free_for(in_region(clock), "a")


def test_a_block_that_is_told_again_changes_nothing(clock: ManualClock) -> None:
    """It is not fresh any more, and what was given of it is known."""
    ports = in_region(clock, FRESH)
    ports.hold(20_003, "a")
    ports.reserved([OLD], {})
    assert free_for(ports, "b") == set(range(20_000, 20_010)) - {20_003}


def test_a_block_from_before_the_start_rests_first(clock: ManualClock) -> None:
    """What this node gave of it then it cannot know: only who shows a ticket has a port of it at once."""
    ports = in_region(clock, OLD)
    assert ports.free == 0
    assert may_have(ports, "a", 20_003)
    clock.now += REST
    wake(ports, clock)
    assert ports.free == 10


def test_a_port_that_a_registry_knows_of_is_its_labels_after_a_start(clock: ManualClock) -> None:
    """No other ticket for it is taken, and it does not wake."""
    ports = in_region(clock)
    ports.reserved([OLD], {20_003: "a"})
    assert not may_have(ports, "b", 20_003)
    assert may_have(ports, "a", 20_003)


def test_a_block_that_another_node_has_by_now_is_not_given_from(clock: ManualClock) -> None:
    """Ports of it that tunnels have here stay with them until they let go."""
    ports = in_region(clock, FRESH)
    ports.hold(20_003, "a")
    ports.reserved([], {})
    assert not free_for(ports, "b")
    assert ports.holder(20_003) == "a"
    ports.release(20_003)
    assert (ports.held, ports.resting) == (0, 0)


def test_a_rested_port_that_a_tunnel_has_elsewhere_does_not_wake(clock: ManualClock) -> None:
    """Its label took it along to a node that this one does not hear from: a registry knows."""
    ports = account(clock)
    ports.hold(20_003, "a")
    ports.release(20_003)
    clock.now += 2 * REST
    wake(ports, clock, port_20003="a")
    assert 20_003 not in free_for(ports, "b")
    assert ports.next_rested == clock.now + REST
    clock.now += REST
    wake(ports, clock)
    assert 20_003 in free_for(ports, "b")


def test_a_port_does_not_wake_by_what_was_asked_before_its_rest_was_over(clock: ManualClock) -> None:
    """The answer is of the moment of the question."""
    ports = account(clock)
    ports.hold(20_003, "a")
    ports.release(20_003)
    asked_at = clock.now + REST - 1
    clock.now += REST
    ports.confirmed(asked_at, {})
    assert 20_003 not in free_for(ports, "b")


def test_without_a_registry_only_unused_ports_are_given(clock: ManualClock) -> None:
    """Somebody may have a used one by now, and nobody could tell; to its own label it is free as ever."""
    ports = account(clock)
    for port in (20_003, 20_004):
        ports.hold(port, "a")
        ports.release(port)
    clock.now += REST
    wake(ports, clock)
    assert ports.free == 10
    ports.registry_away = True
    assert free_for(ports, "b") == set(range(20_000, 20_010)) - {20_003, 20_004}
    assert ports.free == 8
    ports.registry_away = False
    assert ports.free == 10


def test_a_siblings_port_is_nobody_elses(clock: ManualClock) -> None:
    """Even one of this node's own blocks: a tunnel took it along."""
    ports = in_region(clock, FRESH, siblings={20_003: "a", OTHERS: "a2"})
    assert 20_003 not in free_for(ports, "b")
    assert not may_have(ports, "b", 20_003)
    assert may_have(ports, "a", 20_003)
    assert may_have(ports, "a2", OTHERS)


def test_a_port_of_another_block_is_had_by_a_ticket(clock: ManualClock) -> None:
    """The newest one of its owner, which was checked before; unless a tunnel here has the port."""
    ports = in_region(clock, FRESH)
    assert may_have(ports, "a", OTHERS)
    ports.hold(OTHERS, "a")
    assert not may_have(ports, "b", OTHERS)
    ports.release(OTHERS)
    assert may_have(ports, "b", OTHERS), "its own node lets it rest, and signs no ticket meanwhile"


def test_an_own_port_that_a_sibling_let_go_rests_in_full(clock: ManualClock) -> None:
    """A tunnel that took it along is over."""
    ports = in_region(clock, FRESH)
    ports.rest(20_003, "a")
    assert 20_003 not in free_for(ports, "b")
    clock.now += REST
    wake(ports, clock)
    assert 20_003 in free_for(ports, "b")
