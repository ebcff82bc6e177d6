"""The marks at which a warning about a certificate is due."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from portway_runtime.expiry import ExpiryWarnings, Watched, mark_of
from portway_runtime.identities import BACKDATE

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


def lasting(life: timedelta, begin: datetime = START) -> Any:
    """A certificate, as far as its dates."""
    return SimpleNamespace(not_valid_before_utc=begin, not_valid_after_utc=begin + life)


@pytest.mark.parametrize(
    ("life", "left", "mark"),
    [
        pytest.param(90 * DAY, 31 * DAY, None, id="tools replace it now"),
        pytest.param(90 * DAY, 29 * DAY, 30 * DAY, id="90 days"),
        pytest.param(47 * DAY, 20 * DAY, None, id="30 days are most of 47"),
        pytest.param(47 * DAY, 6 * DAY, 7 * DAY, id="47 days"),
        pytest.param(6 * DAY, 5 * DAY, None, id="all its life is within a week"),
        pytest.param(6 * DAY, 23 * HOUR, 23 * HOUR, id="6 days"),
        pytest.param(2 * HOUR, 90 * MINUTE, None, id="2 hours, new"),
        pytest.param(2 * HOUR, 59 * MINUTE, HOUR, id="2 hours, old"),
        pytest.param(2 * HOUR, 0 * HOUR, 0 * HOUR, id="it has ended"),
        pytest.param(2 * HOUR, -90 * MINUTE, -2 * HOUR, id="long ago"),
    ],
)
def test_a_mark_is_not_most_of_its_life(life: timedelta, left: timedelta, mark: timedelta | None) -> None:
    """Otherwise a certificate would be warned of from its first day."""
    assert mark_of(lasting(life), START + life - left, renewed=False) == mark


@pytest.mark.parametrize(
    ("left", "mark"),
    [
        pytest.param(24 * HOUR, None, id="renewal is due"),
        pytest.param(13 * HOUR, None, id="it is tried"),
        pytest.param(12 * HOUR, 12 * HOUR, id="overdue"),
        pytest.param(5 * HOUR + MINUTE, 6 * HOUR, id="each hour"),
        pytest.param(-MINUTE, -HOUR, id="ended"),
    ],
)
def test_a_certificate_that_is_renewed_by_itself_is_overdue_at_a_quarter(left: timedelta, mark: timedelta) -> None:
    """It is renewed at half of its 48 hours, which is no reason for a warning."""
    certificate = lasting(48 * HOUR + BACKDATE)
    assert mark_of(certificate, certificate.not_valid_after_utc - left, renewed=True) == mark


def test_each_mark_is_told_once_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    """However often it is looked; a certificate that takes its place begins anew."""
    now, watched = START, {"public": Watched(lasting(90 * DAY), "put a new one in its place")}
    warnings = ExpiryWarnings(lambda: watched, lambda: now)

    def told(left: timedelta) -> list[str]:
        nonlocal now
        caplog.clear()
        now = watched["public"].end - left
        warnings.look()
        warnings.look()
        return [record.getMessage() for record in caplog.records]

    assert told(31 * DAY) == []
    assert told(30 * DAY) == ["a certificate ends soon: put a new one in its place"]
    assert told(8 * DAY) == []
    assert told(7 * DAY) == ["a certificate ends soon: put a new one in its place"]
    assert told(-MINUTE) == ["a certificate has ended and nobody trusts it any more: put a new one in its place"]
    watched["public"] = Watched(lasting(90 * DAY, now), "put a new one in its place")
    assert told(60 * DAY) == []
    assert told(DAY) == ["a certificate ends soon: put a new one in its place"]
