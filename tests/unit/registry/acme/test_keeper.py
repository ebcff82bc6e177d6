"""The replica whose turn it is: what it does at once, what it does again, and what it leaves.

Here: fakes of the ACME server and of the turn. Not here: rules and times (test_schedule.py), a real server
(tests/integration/certificates).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from portway_proto.v1.types_pb2 import NodeInfo
from portway_registry.acme import keeper as keeper_module
from portway_registry.acme.keeper import Keeper
from portway_registry.acme.wrapping import WrappingKey
from portway_registry.errors import AcmeFailed
from portway_registry.pki.signing import Signer, new_key, private_pem
from portway_registry.state import keys
from portway_registry.state.domain_records import CertificateRecord
from portway_registry.state.records import encode
from portway_registry.state.views import Views
from portway_runtime.certificates import CertifiedKey
from portway_runtime.clocks import monotonic
from portway_runtime.tasks import Tasks
from portway_testkit.clusters.served_session import Fickle
from portway_testkit.links.carrier_link import until

DOMAIN = "tun.example.com"
FRA, IAD = f"fra.{DOMAIN}", f"iad.{DOMAIN}"
DIRECTORY = "https://acme.example/dir"


class Connection:
    """One that answers no question."""

    def close(self) -> None:
        """Nothing is open."""

    async def renewal_window(self, certificate: bytes) -> tuple[None, int]:
        return None, int(datetime.now(UTC).timestamp() * 1000) + 86_400_000


class Stage:
    """A keeper that has the turn, nodes, and an ACME server as a function of the zone."""

    def __init__(self, store: Fickle, views: Views) -> None:
        self.store = store
        self.views = views
        self.ca = Signer.create()
        self.ordered: list[str] = []
        self.issue: Callable[[str], Awaitable[None]] = self.at_once
        self.forgotten = 0
        stage: Any = self
        self.keeper = Keeper(
            store,
            views.nodes,
            views.certificates,
            stage,
            stage,
            WrappingKey(bytes(32)),
            lambda: int(datetime.now(UTC).timestamp() * 1000),
            monotonic,
            directory=DIRECTORY,
            domain=DOMAIN,
            registry_name=None,
        )
        self.tasks = Tasks("keeper")

    async def at_once(self, zone: str) -> None:
        """It does not wait before it issues."""

    async def connect(self) -> Connection:
        return Connection()

    async def forget(self) -> None:
        self.forgotten += 1

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """As a Turn that is never lost."""
        await work()

    def start(self) -> None:
        turn: Any = self
        self.tasks.spawn(self.keeper.run(turn), name="keep")

    async def obtain(self, connection: Any, publisher: Any, names: Sequence[str], **_: Any) -> CertifiedKey:
        zone = names[0]
        self.ordered.append(zone)
        await self.issue(zone)
        key = new_key()
        certificate = self.ca.region(key.public_key(), zone.partition(".")[0], DOMAIN)
        return CertifiedKey(certificate.public_bytes(Encoding.PEM), private_pem(key), certificate)

    async def add_node(self, name: str, region: str, domain: str = DOMAIN) -> None:
        await self.store.put(keys.node(name), NodeInfo(name=name, region=region, domain=domain).SerializeToString())

    def has(self, zone: str) -> bool:
        record = self.views.certificates.get(zone)
        return record is not None and bool(record.chain)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    store = Fickle()
    views = Views(store, on_failure=print)
    await views.start()
    stage = Stage(store, views)
    monkeypatch.setattr(keeper_module, "obtain", stage.obtain)
    monkeypatch.setattr(keeper_module, "_AGAIN_AFTER", 0.01)
    yield stage
    await stage.tasks.close()
    await views.close()
    await store.close()


async def test_each_region_with_a_node_gets_one(stage: Stage) -> None:
    """Of this cluster's domain; once, however many nodes it has."""
    stage.start()
    for name, region in (("fra-1", "fra"), ("fra-2", "fra"), ("iad-1", "iad")):
        await stage.add_node(name, region)
    await stage.add_node("other", "ams", "example.org")
    await until(lambda: stage.has(FRA) and stage.has(IAD))
    assert sorted(stage.ordered) == [FRA, IAD]


async def test_a_slow_order_holds_up_no_other(stage: Stage) -> None:
    """A new region has its certificate while the server thinks about another one."""
    gate = asyncio.Event()

    async def slowly(zone: str) -> None:
        if zone == FRA:
            await gate.wait()

    stage.issue = slowly
    stage.start()
    await stage.add_node("fra-1", "fra")
    await until(lambda: stage.ordered == [FRA])
    await stage.add_node("iad-1", "iad")
    await until(lambda: stage.has(IAD))
    assert not stage.has(FRA)
    gate.set()
    await until(lambda: stage.has(FRA))


async def test_an_outage_of_the_store_costs_no_second_order(stage: Stage) -> None:
    """What was obtained is stored when the store is back."""

    async def away(zone: str) -> None:
        stage.store.away = True

    stage.issue = away
    stage.start()
    await stage.add_node("fra-1", "fra")
    await stage.store.asked.wait()
    assert not stage.has(FRA)
    stage.store.away = False
    await until(lambda: stage.has(FRA))
    assert stage.ordered == [FRA]


async def test_a_failure_is_stored_and_not_repeated_at_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The record has its reason and the time of the next try, for whichever replica makes it."""

    async def refuse(zone: str) -> None:
        raise AcmeFailed("no such account", code="accountDoesNotExist", retry_after=3600)

    stage.issue = refuse
    stage.start()
    await stage.add_node("fra-1", "fra")
    await until(lambda: stage.views.certificates.get(FRA) is not None)
    record = stage.views.certificates.get(FRA)
    assert record is not None
    assert (record.failures, record.failure) == (1, "no such account")
    assert 3_600_000 <= record.retry_at_ms - record.failed_at_ms <= 4_500_000
    assert stage.forgotten == 1, "it is registered again before the next order"
    await stage.add_node("iad-1", "iad")
    await until(lambda: IAD in stage.views.certificates.items)
    assert stage.ordered == [FRA, IAD]
    assert "certificate not obtained" in caplog.text


async def test_a_fault_of_its_own_is_not_repeated_at_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback, and others go on."""

    async def break_down(zone: str) -> None:
        if zone == FRA:
            raise RuntimeError("a fault")

    stage.issue = break_down
    stage.start()
    await stage.add_node("fra-1", "fra")
    await until(lambda: "a fault" in caplog.text)
    await stage.add_node("iad-1", "iad")
    await until(lambda: stage.has(IAD))
    assert stage.ordered == [FRA, IAD]


async def test_what_no_node_needs_is_not_renewed_and_forgotten_after_its_end(stage: Stage) -> None:
    """One that is valid stays."""
    now = int(datetime.now(UTC).timestamp() * 1000)
    for zone, end in ((FRA, now - 1000), (IAD, now + 3_600_000)):
        record = CertificateRecord(zone, b"chain", b"key", DIRECTORY, now - 9_000_000, end, now - 9_000_000)
        await stage.store.put(keys.certificate(zone), encode(record))
        await stage.views.certificates.caught_up(zone)
    stage.start()
    await until(lambda: FRA not in stage.views.certificates.items)
    assert IAD in stage.views.certificates.items
    assert stage.ordered == []
