"""Token buckets, one for each key of many, in bounded memory; turns for callers that come all at once."""

import pytest
from portway_runtime.rates import AddressRate, KeyedRate, TokenBucket, Turns, address_prefixes
from portway_testkit.fakes.clock import ManualClock


def taken(bucket: TokenBucket, tries: int) -> int:
    return sum(bucket.take() for _ in range(tries))


def test_a_burst_is_let_through_and_no_more(clock: ManualClock) -> None:
    """A full bucket gives its burst at once."""
    assert taken(TokenBucket(10, 5, clock), 20) == 5


def test_what_is_left_can_be_asked(clock: ManualClock) -> None:
    """It grows with time up to the burst, and is below 0 by what was charged in advance."""
    bucket = TokenBucket(8, 5, clock)
    bucket.charge(7)
    assert bucket.left == -2
    clock.now += 0.5
    assert bucket.left == 2
    clock.now += 1000
    assert bucket.left == 5


def test_a_bucket_fills_with_time(clock: ManualClock) -> None:
    """After the burst it gives its rate, counted in fractions, and never more than the burst at once."""
    bucket = TokenBucket(8, 5, clock)
    taken(bucket, 5)
    clock.now += 0.0625
    assert taken(bucket, 5) == 0
    clock.now += 0.0625
    assert taken(bucket, 5) == 1
    clock.now += 0.375
    assert taken(bucket, 10) == 3
    clock.now += 1000
    assert taken(bucket, 10) == 5


def test_what_is_refused_is_not_counted(clock: ManualClock) -> None:
    """Asking in vain does not delay the next one."""
    bucket = TokenBucket(1, 1, clock)
    taken(bucket, 1000)
    clock.now += 1
    assert bucket.take()


def test_addresses_do_not_share(clock: ManualClock) -> None:
    """One that comes too fast does not slow another."""
    rate = AddressRate(1, 2, clock)
    assert [rate.take("192.0.2.1") for _ in range(4)] == [True, True, False, False]
    assert rate.take("192.0.2.2")
    clock.now += 1
    assert rate.take("192.0.2.1")


def test_an_ipv6_customer_is_one_address(clock: ManualClock) -> None:
    """All addresses of a /64 share a bucket, however they are written; the /64 beside it has its own."""
    rate = AddressRate(1, 3, clock)
    same = ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:0DB8:0000:0001::3"]
    assert all(rate.take(address) for address in same)
    assert not rate.take("2001:db8:0:1::4")
    assert rate.take("2001:db8:0:2::1")
    assert len(rate) == 2


def test_a_scope_is_no_part_of_the_address(clock: ManualClock) -> None:
    """Link-local peers carry the name of an interface behind a percent sign."""
    rate = AddressRate(1, 1, clock)
    assert rate.take("fe80::1%eth0")
    assert not rate.take("fe80::1%eth1")


def test_memory_is_bounded(clock: ManualClock) -> None:
    """Of more addresses than are remembered, the one that was quiet for longest is forgotten, in its favour."""
    rate = AddressRate(1, 1, clock, capacity=3)
    for number in range(3):
        assert rate.take(f"192.0.2.{number}")
    assert not rate.take("192.0.2.0")  # heard of again: 192.0.2.1 is the quietest now
    assert rate.take("192.0.2.3")
    assert len(rate) == 3
    assert not rate.take("192.0.2.0")
    assert rate.take("192.0.2.1")
    assert len(rate) == 3


def test_a_bucket_says_when_it_gives_again(clock: ManualClock) -> None:
    """At once while it has some, then in the time that one takes, less what has passed of it."""
    bucket = TokenBucket(4, 2, clock)
    assert bucket.wait == 0
    taken(bucket, 2)
    assert bucket.wait == 0.25
    clock.now += 0.125
    assert bucket.wait == 0.125
    clock.now += 0.125
    assert bucket.wait == 0
    assert bucket.take()


def test_what_a_bucket_refuses_is_never_to_be_waited_for_no_time(clock: ManualClock) -> None:
    """0 says that it was taken: not that it could be by now, when the clock has moved on meanwhile."""

    def ticking() -> float:
        clock.now += 0.125
        return clock.now

    bucket = TokenBucket(4, 2, ticking)
    assert [bucket.take_or_wait(2) for _ in range(3)] == [0, 0.375, 0.25]
    assert bucket.take_or_wait(1.5) == 0


def test_who_comes_too_early_is_told_a_turn_of_its_own(clock: ManualClock) -> None:
    """A burst is let in; those behind it are told one moment after the other, at the rate, and asking again later
    gets a later one."""
    turns = Turns(10, 3, clock)
    assert [turns.take() for _ in range(3)] == [0, 0, 0]
    assert [turns.take() for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    clock.now += 0.1
    assert turns.take() == 0
    assert turns.take() == pytest.approx(0.3)


def test_turns_that_nobody_took_are_forgotten(clock: ManualClock) -> None:
    """When a rush is over the next one begins afresh."""
    turns = Turns(10, 1, clock)
    for _ in range(100):
        turns.take()
    clock.now += 60
    assert turns.take() == 0
    assert turns.take() == pytest.approx(0.1)


def test_a_token_that_is_given_back_can_be_taken_again(clock: ManualClock) -> None:
    """Of the address that it was taken for, and never beyond the burst."""
    rate = AddressRate(1, 2, clock)
    assert [rate.take("2001:db8::1") for _ in range(3)] == [True, True, False]
    rate.give_back("2001:db8::2")
    assert [rate.take("2001:db8::1") for _ in range(2)] == [True, False]
    bucket = TokenBucket(1, 2, clock)
    bucket.give_back()
    assert taken(bucket, 5) == 2


def test_what_is_given_back_for_an_unknown_key_is_not_remembered(clock: ManualClock) -> None:
    """A key that was forgotten has a full bucket already."""
    rate = KeyedRate[str](1, 1, clock, capacity=10)
    rate.give_back("never seen")
    assert len(rate) == 0


def test_each_key_waits_for_its_own_tokens(clock: ManualClock) -> None:
    """The seconds until as many are there; nothing is taken meanwhile."""
    rate = KeyedRate[str](4, 8, clock, capacity=10)
    assert rate.take_or_wait("a", 8) == 0
    assert rate.take_or_wait("a", 2) == 0.5
    assert rate.take_or_wait("b", 8) == 0
    clock.now += 0.5
    assert rate.take_or_wait("a", 2) == 0


def test_the_keys_whose_rate_is_remembered_are_bounded(clock: ManualClock) -> None:
    """The least recently used is forgotten, and begins with a full bucket again."""
    rate: KeyedRate[str] = KeyedRate(0.1, 1, clock, capacity=10)
    for number in range(30):
        assert rate.take(f"token{number}")
    assert len(rate) == 10
    assert not rate.take("token29")
    assert rate.take("token0")


def test_what_is_charged_may_be_owed(clock: ManualClock) -> None:
    """The seconds until nothing is owed any more; each further charge adds to them."""
    bucket = TokenBucket(10, 20, clock)
    assert [bucket.charge(20), bucket.charge(5), bucket.charge(5)] == [0, 0.5, 1.0]
    clock.now += 1.5
    assert bucket.charge(5) == 0
    rate = KeyedRate[str](10, 20, clock, capacity=10)
    assert [rate.charge("a", 25), rate.charge("b", 20)] == [0.5, 0]


def test_an_address_has_prefixes() -> None:
    """An IPv4 address its /24; an IPv6 address, whatever its scope, its /48, /56 and /64."""
    assert address_prefixes("192.0.2.7") == ("192.0.2", "192.0.2.7")
    widest, wider, own = address_prefixes("2001:db8:1:234::5%eth0")
    assert (widest, wider, own) == (
        bytes.fromhex("20010db80001"),
        bytes.fromhex("20010db8000102"),
        bytes.fromhex("20010db800010234"),
    )
