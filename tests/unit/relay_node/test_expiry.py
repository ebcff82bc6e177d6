"""When certificates end: which warnings are due, and which end makes a node useless."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from portway_relay.expiry import NODE, Expiry
from portway_runtime.identities import BACKDATE
from portway_testkit.links.carrier_link import until

ZONE, OTHER = "fra.example.com", "ams.example.com"
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


def lasting(life: timedelta, begin: datetime = START) -> Any:
    """A certificate, as far as its dates."""
    return SimpleNamespace(not_valid_before_utc=begin, not_valid_after_utc=begin + life)


class Node:
    """Certificates and a clock that can be set."""

    def __init__(self, *, renewed: bool = False) -> None:
        self.now = START
        self.node = SimpleNamespace(certificate=lasting(365 * DAY))
        self.received: set[str] = set()
        self.zones = {zone: SimpleNamespace(certificate=lasting(365 * DAY)) for zone in (ZONE, OTHER)}
        certificates: Any = self
        self.expiry = Expiry(lambda: certificates, ZONE, renewed=renewed, now=lambda: self.now)

    def pass_until(self, end: datetime, step: timedelta) -> None:
        """Look each `step`."""
        while self.now < end:
            self.now += step
            self.expiry.warnings.look()


def told(caplog: pytest.LogCaptureFixture, name: str) -> list[int]:
    """The hours left in each line about a certificate."""
    records = [record.__dict__ for record in caplog.records]
    return [one["hours_left"] for one in records if one.get("certificate") == name]


def test_warnings_come_at_30_7_and_1_days_and_each_hour_of_the_last(caplog: pytest.LogCaptureFixture) -> None:
    """One line each, however often it is looked; an error each hour after the end."""
    node = Node()
    node.zones[ZONE].certificate = lasting(90 * DAY)
    node.pass_until(START + 90 * DAY + 2 * HOUR, 10 * MINUTE)
    assert told(caplog, ZONE) == [30 * 24, 7 * 24, *range(24, -3, -1)]
    levels = [record.levelno for record in caplog.records if record.__dict__["certificate"] == ZONE]
    assert levels == [logging.WARNING] * 26 + [logging.ERROR] * 3
    assert told(caplog, OTHER) == told(caplog, NODE) == []


def test_one_that_registries_renew_is_told_when_that_is_overdue(caplog: pytest.LogCaptureFixture) -> None:
    """At a quarter of its life: it should have been renewed at a third."""
    node = Node()
    node.received = {ZONE}
    node.zones[ZONE].certificate = lasting(90 * DAY + BACKDATE)
    node.pass_until(START + 60 * DAY, 6 * HOUR)
    assert told(caplog, ZONE) == []
    node.pass_until(START + 69 * DAY, 6 * HOUR)
    assert len(told(caplog, ZONE)) == 1
    assert "should have been renewed" in caplog.text


def test_a_node_without_a_certificate_for_its_own_names_is_useless() -> None:
    """Until a registry hands it one."""
    node = Node()
    certificate = node.zones.pop(ZONE)
    assert node.expiry.ended() == f"there is no certificate of *.{ZONE} yet"
    node.zones[ZONE] = certificate
    assert node.expiry.ended() == ""


def test_what_is_past_a_mark_at_the_start_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Once, until the next mark; a new certificate ends it."""
    node = Node()
    node.now = START + 360 * DAY
    node.expiry.warnings.look()
    node.expiry.warnings.look()
    assert told(caplog, ZONE) == [5 * 24]
    assert "put a new one in its place" in caplog.text
    node.zones[ZONE].certificate = lasting(90 * DAY, node.now)
    caplog.clear()
    node.pass_until(START + 364 * DAY, HOUR)
    assert told(caplog, ZONE) == []
    assert told(caplog, OTHER) == [24]


def test_while_renewal_works_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Through many certificates, each replaced an hour after the half; then renewal fails."""
    node = Node(renewed=True)
    for _ in range(5):
        node.node.certificate = lasting(48 * HOUR + BACKDATE, node.now - BACKDATE)
        node.pass_until(node.now + 25 * HOUR, 10 * MINUTE)
    assert told(caplog, NODE) == []
    node.pass_until(node.now + 20 * HOUR, 10 * MINUTE)
    assert told(caplog, NODE) == list(range(12, 2, -1))
    assert "should have been renewed" in caplog.text


def test_which_end_makes_the_node_useless() -> None:
    """Its own certificate's and its own region's; another region is served by its own nodes."""
    node = Node()
    node.zones[OTHER].certificate = lasting(DAY)
    node.now = START + DAY
    assert node.expiry.ended() == ""
    node.zones[ZONE].certificate = lasting(DAY)
    assert node.expiry.ended() == f"the certificate of *.{ZONE} has ended"
    node.node.certificate = lasting(DAY)
    assert node.expiry.ended() == "this node's certificate has ended"
    node.now -= timedelta(seconds=1)
    assert node.expiry.ended() == ""


def test_a_zone_whose_certificate_has_ended_is_not_served() -> None:
    """Names in it lead to other nodes then: registries and nodes are told the zones that are left."""
    node = Node()
    assert node.expiry.zones() == sorted((ZONE, OTHER))
    node.zones[OTHER].certificate = lasting(DAY)
    node.now = START + DAY
    assert node.expiry.zones() == [ZONE]


def test_the_ends_are_named_by_zone() -> None:
    """And by `node`, which is no zone."""
    ends = Node().expiry.ends()
    assert ends == dict.fromkeys((NODE, ZONE, OTHER), START + 365 * DAY)


def test_the_first_end_is_one_that_somebody_has_to_replace() -> None:
    """What the node renews by itself counts when that is overdue."""
    node = Node(renewed=True)
    node.node.certificate = lasting(48 * HOUR + BACKDATE)
    node.zones[OTHER].certificate = lasting(90 * DAY)
    assert node.expiry.first_end() == START + 90 * DAY
    node.now = node.node.certificate.not_valid_after_utc - 12 * HOUR
    assert node.expiry.first_end() == node.node.certificate.not_valid_after_utc
    assert Node().expiry.first_end() == START + 365 * DAY


def test_there_is_no_first_end_while_all_are_renewed_in_time() -> None:
    """A node that joined has none but its own before registries hand it those of regions."""
    node = Node(renewed=True)
    node.node.certificate = lasting(48 * HOUR + BACKDATE)
    node.received = {ZONE, OTHER}
    assert node.expiry.first_end() is None
    node.zones = {}
    assert node.expiry.first_end() is None


async def test_it_looks_by_itself(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """At once, and again and again."""
    monkeypatch.setattr("portway_runtime.expiry._LOOK_INTERVAL", 0.0)
    node = Node()
    watching = asyncio.ensure_future(node.expiry.warnings.watch())
    await asyncio.sleep(0)
    node.now = START + 364 * DAY
    await until(lambda: bool(told(caplog, ZONE)))
    watching.cancel()


def test_a_node_that_waits_for_its_first_certificate_has_no_first_end() -> None:
    """Its own one, which it renews by itself, is nobody else's to replace."""
    node = Node(renewed=True)
    node.node.certificate = lasting(48 * HOUR + BACKDATE)
    node.zones.clear()
    assert node.expiry.first_end() is None
