"""What is due for a certificate, by its record and the time alone."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portway_registry.acme.schedule import (
    Due,
    Step,
    ask_again_ms,
    chosen_ms,
    is_replaced,
    next_step,
    pause_ms,
    renewal_ms,
)
from portway_registry.state.domain_records import CertificateRecord, Revocation

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
NOW: Final = 1_800_000_000_000
DIRECTORY: Final = "https://acme.example/dir"
RENEWAL: Final = NOW + 60 * DAY


def record(**more: Any) -> CertificateRecord:
    """A certificate of 90 days from now on; what the server says of it is known until tomorrow."""
    given: dict[str, Any] = {
        "chain": b"chain",
        "directory": DIRECTORY,
        "from_ms": NOW,
        "until_ms": NOW + 90 * DAY,
        "obtained_at_ms": NOW,
        "ask_at_ms": NOW + 1000 * DAY,
    }
    return CertificateRecord("fra.example.com", **given | more)


def due(one: CertificateRecord | None, *, wanted: bool = True) -> Due | None:
    return next_step(one, wanted=wanted, directory=DIRECTORY)


def test_what_is_missing_is_ordered_at_once() -> None:
    """A zone without a record, or with one that has no certificate."""
    assert due(None) == Due(Step.ORDER, 0)
    assert due(CertificateRecord("fra.example.com")) == Due(Step.ORDER, 0)
    assert due(None, wanted=False) is None


def test_a_certificate_is_renewed_at_two_thirds_of_its_life() -> None:
    """A third of it is left for tries."""
    assert due(record()) == Due(Step.ORDER, RENEWAL)


@pytest.mark.parametrize(
    ("said", "renewed"),
    [
        (NOW + 30 * DAY, NOW + 30 * DAY),
        (NOW - DAY, NOW + DAY),  # "now", of each new one: not more than one a day
        (NOW + 89 * DAY, NOW + 75 * DAY),  # a sixth of its life stays for tries
        (NOW + 900 * DAY, NOW + 75 * DAY),
    ],
)
def test_or_when_the_server_says(said: int, renewed: int) -> None:
    """Within bounds: a server that is wrong must not make it end, nor order without end."""
    assert renewal_ms(record(renew_at_ms=said)) == renewed
    assert due(record(renew_at_ms=said)) == Due(Step.ORDER, renewed)


def test_short_lives_have_short_bounds() -> None:
    """A tenth of the life between two renewals."""
    short = record(until_ms=NOW + HOUR, renew_at_ms=NOW - DAY)
    assert renewal_ms(short) == NOW + HOUR // 10


@settings(max_examples=50)
@given(
    life=st.integers(min_value=10_000, max_value=400 * DAY),
    said=st.integers(min_value=0, max_value=2 * NOW),
    late=st.integers(min_value=0, max_value=HOUR),
)
def test_it_is_renewed_before_its_end_whatever_the_server_says(life: int, said: int, late: int) -> None:
    """Also of a certificate that is valid from an hour before its issue."""
    one = record(from_ms=NOW - late, until_ms=NOW + life, renew_at_ms=said)
    assert NOW < renewal_ms(one) < one.until_ms


def test_the_server_is_asked_when_it_wants_to_be() -> None:
    """Not one that did not issue the certificate."""
    assert due(record(ask_at_ms=NOW + HOUR)) == Due(Step.ASK, NOW + HOUR)
    elsewhere = record(ask_at_ms=NOW + HOUR, directory="https://staging.example/dir")
    assert due(elsewhere) == Due(Step.ORDER, 0), "another server is used now"
    assert due(record(ask_at_ms=NOW + HOUR), wanted=False) == Due(Step.FORGET, NOW + 90 * DAY)


def test_it_is_asked_neither_each_second_nor_never_again() -> None:
    """Once a day at least, once a minute at most."""
    assert ask_again_ms(NOW + 6 * HOUR, NOW) == NOW + 6 * HOUR
    assert ask_again_ms(0, NOW) == NOW + MINUTE
    assert ask_again_ms(NOW + 900 * DAY, NOW) == NOW + DAY


@settings(max_examples=50)
@given(certificate=st.binary(min_size=1, max_size=40), span=st.integers(min_value=1, max_value=10 * DAY))
def test_renewals_are_spread_over_the_window(certificate: bytes, span: int) -> None:
    """At the same time of it whenever the server is asked."""
    chosen = chosen_ms((NOW, NOW + span), certificate)
    assert NOW <= chosen <= NOW + span
    assert chosen_ms((NOW, NOW + span), certificate) == chosen
    assert chosen_ms((NOW + DAY, NOW + DAY + span), certificate) == chosen + DAY


def test_windows_that_end_before_they_begin_are_their_begin() -> None:
    """RFC 9773 forbids them."""
    assert chosen_ms((NOW, NOW - DAY), b"x") == NOW


def test_an_operator_does_not_wait() -> None:
    """Neither for the time of renewal nor for the pause after a failure."""
    assert due(record(wanted_at_ms=NOW + DAY)) == Due(Step.ORDER, NOW + DAY)
    failed = record(failures=3, failed_at_ms=NOW, retry_at_ms=NOW + HOUR, wanted_at_ms=NOW + 1)
    assert due(failed) == Due(Step.ORDER, NOW + 1)
    again = msgspec.structs.replace(failed, failed_at_ms=NOW + 2)
    assert due(again) == Due(Step.ORDER, NOW + HOUR), "it was tried since"


def test_after_a_failure_there_is_a_pause() -> None:
    """Of an order and of a revocation alike; a failure before the time of renewal does not bring that forward."""
    failed: dict[str, Any] = {"failures": 1, "failed_at_ms": NOW, "retry_at_ms": NOW + HOUR}
    assert due(CertificateRecord("fra.example.com", **failed)) == Due(Step.ORDER, NOW + HOUR)
    assert due(record(**failed)) == Due(Step.ORDER, RENEWAL)
    assert due(record(revoking=Revocation(b"old"), **failed)) == Due(Step.REVOKE, NOW + HOUR)


def test_a_certificate_is_revoked_once_another_one_is_there() -> None:
    """Or before, if an operator says so."""
    ordered = record(revoking=Revocation(b"chain"), wanted_at_ms=NOW)
    assert not is_replaced(ordered)
    assert due(ordered) == Due(Step.ORDER, NOW)
    assert is_replaced(record(revoking=Revocation(b"old")))
    assert due(record(revoking=Revocation(b"old"))) == Due(Step.REVOKE, 0)
    assert due(record(revoking=Revocation(b"chain", first=True), wanted_at_ms=NOW)) == Due(Step.REVOKE, 0)


def test_a_region_without_a_node_keeps_its_certificate_to_the_end() -> None:
    """Its node may come back. What is to be revoked is not forgotten."""
    assert due(record(), wanted=False) == Due(Step.FORGET, NOW + 90 * DAY)
    assert due(record(revoking=Revocation(b"old")), wanted=False) == Due(Step.REVOKE, 0)


def test_pauses_double_up_to_an_hour() -> None:
    """From a minute on; with up to a quarter more, so that zones do not come together."""
    pauses = [pause_ms(failures, 0, 0.0) // MINUTE for failures in range(1, 10)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pause_ms(10_000, 0, 0.0) == HOUR
    assert pause_ms(1, 0, 1.0) == MINUTE * 5 // 4
    assert pause_ms(1, 3 * HOUR, 0.0) == 3 * HOUR, "the server demands it"


@dataclass
class Allowance:
    """A token bucket as Let's Encrypt counts: `burst` at once, then one each `every` milliseconds."""

    burst: float
    every: float
    left: float = 0.0
    seen: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.burst

    def take(self, at: float) -> bool:
        self.left = min(self.burst, self.left + (at - self.seen) / self.every)
        self.seen = at
        self.left -= 1
        return self.left >= 0


def test_failures_stay_within_lets_encrypts_limit() -> None:
    """Five failed validations of a name and account, and one more each 12 minutes, for a day of failures."""
    allowed, at, failures = Allowance(5, 12 * MINUTE), 0.0, 0
    while at < DAY:
        assert allowed.take(at), f"refused after {at / MINUTE} minutes"
        failures += 1
        at += pause_ms(failures, 0, 0.0)
    assert failures > 24, "and it is tried each hour at least"
