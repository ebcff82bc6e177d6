"""The share of the event loop that DNS may take."""

import pytest
from portway_relay.dns.loop_share import LoopShare
from portway_relay.dns.response_rate import ResponseRate, Verdict
from portway_testkit.fakes.clock import ManualClock


def taken(share: LoopShare, clock: ManualClock, seconds: float) -> float:
    """Seconds of the loop that a flood gets in so many, in bits of half a millisecond."""
    end, before = clock() + seconds, share.spent
    while clock() < end:
        wait = share.wait
        clock.now += wait
        if not wait:
            clock.now += 0.0005
            share.spend(0.0005)
    return share.spent - before


def test_a_flood_gets_a_fifth_while_there_are_visits(clock: ManualClock) -> None:
    share = LoopShare(0.2, lambda: (1, 0), clock)
    assert taken(share, clock, 10.0) == pytest.approx(2.0, abs=0.05)


def test_short_visits_count_for_a_second(clock: ManualClock) -> None:
    begun = [0]
    share = LoopShare(0.2, lambda: (0, begun[0]), clock)
    assert taken(share, clock, 10.0) == pytest.approx(8.0, abs=0.1)
    begun[0] = 1
    assert taken(share, clock, 1.0) == pytest.approx(0.2, abs=0.05)
    assert taken(share, clock, 10.0) == pytest.approx(8.0, abs=0.2)


def test_what_is_not_taken_is_not_saved(clock: ManualClock) -> None:
    """A flood after an hour of silence gets no more than any other."""
    share = LoopShare(0.2, lambda: (1, 0), clock)
    clock.now += 3600
    assert taken(share, clock, 1.0) <= 0.23


def test_a_network_above_its_rate_is_asked_to_come_over_tcp_every_second_time(clock: ManualClock) -> None:
    rate = ResponseRate(10, 4, clock)
    assert [rate.judge("192.0.2.1") for _ in range(4)] == [Verdict.ANSWER] * 4
    assert [rate.judge("192.0.2.2") for _ in range(4)] == [Verdict.CUT, Verdict.DROP] * 2
    assert (rate.cut, rate.dropped) == (2, 2)
    assert rate.judge("198.51.100.1") is Verdict.ANSWER
    clock.now += 0.1
    assert rate.judge("192.0.2.3") is Verdict.ANSWER


def test_networks_of_ipv6_are_prefixes(clock: ManualClock) -> None:
    rate = ResponseRate(10, 1, clock)
    assert rate.judge("2001:db8:1::1") is Verdict.ANSWER
    assert rate.judge("2001:db8:1:ffff::2") is Verdict.CUT
    assert rate.judge("2001:db8:2::1") is Verdict.ANSWER


def test_networks_are_counted_up_to_a_number(clock: ManualClock) -> None:
    rate = ResponseRate(10, 1, clock)
    for number in range(20_000):
        rate.judge(f"10.{number // 250}.{number % 250}.1")
    assert len(rate) == 16_384
