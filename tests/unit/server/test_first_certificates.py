"""Certificates of a first machine: when those that failed are asked for again."""

import asyncio

import pytest
from portway_proto.v1.admin_pb2 import ZoneCertificateInfo
from portway_server import first_certificates
from portway_server.first_certificates import obtained
from portway_testkit.links.carrier_link import until

NAME, ZONE, OTHER = "tun.example.com", "fra.tun.example.com", "iad.tun.example.com"
MINUTE_MS = 60_000


class Registry:
    """One whose certificates fail until `good`, once each minute that a test lets pass, and whenever it is asked."""

    def __init__(self) -> None:
        self.ms = 1_000
        self.good = False
        self.asked: list[tuple[str, int]] = []
        self.found = {zone: ZoneCertificateInfo(zone=zone) for zone in (NAME, ZONE, OTHER)}
        self.fail(NAME)

    def fail(self, zone: str) -> None:
        self.found[zone].failures += 1
        self.found[zone].failed_at_ms = self.ms

    async def listed(self) -> list[ZoneCertificateInfo]:
        self.ms += MINUTE_MS
        return list(self.found.values())

    async def obtain(self, zone: str) -> None:
        self.asked.append((zone, self.ms // MINUTE_MS))
        self.found[zone].wanted_at_ms = self.ms
        if self.good:
            self.found[NAME].until_ms = self.found[ZONE].until_ms = 1
        else:
            self.ms += 1
            self.fail(zone)

    async def wait(self, *, again: bool) -> None:
        await obtained(self.listed, self.obtain, {NAME, ZONE}, again=again, now=lambda: self.ms / 1000)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_certificates, "_POLL", 0.0)


async def test_what_failed_is_asked_for_once_the_delegation_is_there() -> None:
    """What has not failed is on its way, and another region is no matter of this machine."""
    registry = Registry()
    registry.good = True
    await registry.wait(again=True)
    assert registry.asked == [(NAME, 1)]


async def test_it_is_asked_for_twice_and_no_more() -> None:
    """With more than a minute in between, in which resolvers forget; then the registry's own pauses count."""
    registry = Registry()
    waiting = asyncio.ensure_future(registry.wait(again=True))
    await until(lambda: registry.ms >= 20 * MINUTE_MS)
    assert registry.asked == [(NAME, 1), (NAME, 3)]
    registry.found[NAME].until_ms = registry.found[ZONE].until_ms = 1
    await waiting


async def test_nothing_is_asked_for_where_nobody_waited_for_the_delegation() -> None:
    """The failure had another reason."""
    registry = Registry()
    waiting = asyncio.ensure_future(registry.wait(again=False))
    await until(lambda: registry.ms >= 5 * MINUTE_MS)
    assert registry.asked == []
    registry.found[NAME].until_ms = registry.found[ZONE].until_ms = 1
    await waiting
