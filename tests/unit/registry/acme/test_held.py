"""The certificates of the store in every replica's memory: who is handed which, and records that cannot be used."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from portway_registry.acme import held as held_module
from portway_registry.acme.held import HeldCertificates, OwnNameCertificate, purpose
from portway_registry.acme.wrapping import WrappingKey
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.signing import Signer, new_key, private_pem
from portway_registry.state import keys
from portway_registry.state.domain_records import CertificateRecord
from portway_registry.state.records import encode
from portway_registry.state.views import Views
from portway_registry.store.embedded import EmbeddedStore
from portway_runtime.identities import dns_names

DOMAIN = "tun.example.com"
FRA, IAD = f"fra.{DOMAIN}", f"iad.{DOMAIN}"


@dataclass
class Replica:
    """A store, a replica's view of it, and the certificates that it holds."""

    store: EmbeddedStore
    views: Views
    now: datetime
    changes: int = 0

    def __post_init__(self) -> None:
        self.ca = Signer.create()
        self.wrapping = WrappingKey(bytes(32))
        self.held = HeldCertificates(self.views.certificates, self.wrapping, DOMAIN, lambda: self.now)
        self.unfollow = self.held.start()
        self.held.subscribe(self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def made(self, zone: str, *, wrapped_for: str = "") -> CertificateRecord:
        """A record of a zone with a new certificate."""
        key = new_key()
        region, _, domain = zone.partition(".")
        chain = self.ca.region(key.public_key(), region, domain).public_bytes(Encoding.PEM)
        wrapped = self.wrapping.wrap(private_pem(key), purpose(wrapped_for or zone))
        return CertificateRecord(zone, chain, wrapped)

    async def put(self, record: CertificateRecord) -> None:
        await self.store.put(keys.certificate(record.zone), encode(record))
        await self.views.certificates.caught_up(record.zone)

    def handed(self) -> dict[str, bytes]:
        """What nodes are handed: the chain of each zone."""
        return {one.zone: one.chain for part in self.held.for_nodes() for one in part.certificates}


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    store = EmbeddedStore(None, on_failure=print)
    views = Views(store, on_failure=print)
    await views.start()
    replica = Replica(store, views, datetime.now(UTC))
    yield replica
    replica.unfollow()
    await views.close()
    await store.close()


async def test_nodes_are_handed_those_of_regions(replica: Replica) -> None:
    """Not the registry's own, nor one that is not there yet, nor one that has ended."""
    fra, own = replica.made(FRA), replica.made(DOMAIN)
    for record in (fra, own, CertificateRecord(IAD, failures=1)):
        await replica.put(record)
    assert replica.handed() == {FRA: fra.chain}
    assert replica.held.failures() == {FRA: 0, DOMAIN: 0, IAD: 1}
    assert replica.held.watched().keys() == {FRA, DOMAIN}
    replica.now += timedelta(days=1000)
    assert replica.handed() == {}
    assert len(replica.held.for_nodes()) == 1, "a node hears that there is none"


async def test_only_another_certificate_is_a_change(replica: Replica) -> None:
    """What failed meanwhile, or is asked, is none; the object stays the same one."""
    fra = replica.made(FRA)
    await replica.put(fra)
    before = replica.held.get(FRA)
    await replica.put(CertificateRecord(FRA, fra.chain, fra.key, failures=3))
    assert replica.held.get(FRA) is before
    assert replica.changes == 1
    await replica.put(replica.made(FRA))
    assert replica.held.get(FRA) is not before
    assert replica.changes == 2
    await replica.store.delete(keys.certificate(FRA))
    await replica.views.certificates.caught_up(FRA)
    assert (replica.held.get(FRA), replica.changes) == (None, 3)


async def test_a_record_that_cannot_be_used_is_named(replica: Replica, caplog: pytest.LogCaptureFixture) -> None:
    """Damaged, or with the key of another zone, as whoever writes to the store could make it: the one before stays."""
    fra = replica.made(FRA)
    await replica.put(fra)
    iad = replica.made(IAD)
    for wrong in (
        CertificateRecord(FRA, b"no certificate", fra.key),
        CertificateRecord(FRA, iad.chain, iad.key),
        replica.made(FRA, wrapped_for=IAD),
        CertificateRecord(FRA, replica.made(FRA).chain, fra.key),
        CertificateRecord(FRA, fra.chain + b"\n", b""),
    ):
        caplog.clear()
        await replica.put(wrong)
        assert replica.handed() == {FRA: fra.chain}
        assert f"`portway-admin certificate renew {FRA}`" in caplog.text
    assert replica.changes == 1


async def test_a_list_comes_in_as_many_messages_as_it_needs(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes accept messages of 4 MiB."""
    monkeypatch.setattr(held_module, "_LARGEST_PART", 500)
    records = [replica.made(f"r{number}.{DOMAIN}") for number in range(3)]
    for record in records:
        await replica.put(record)
    assert [len(part.certificates) for part in replica.held.for_nodes()] == [1, 1, 1]
    assert replica.handed() == {record.zone: record.chain for record in records}


async def test_the_registry_shows_its_own_name_s(replica: Replica) -> None:
    """Until it is there one of the cluster's CA; of that another one in time, and the same one as long as it is."""
    authority = ClusterAuthority(replica.ca.pem, replica.ca)
    shown = OwnNameCertificate(replica.held, DOMAIN, authority, lambda: replica.now)
    first = shown.current()
    assert shown.current() is first
    assert {DOMAIN, "localhost"} <= set(dns_names(first.certificate))
    first.certificate.verify_directly_issued_by(replica.ca.certificate)
    replica.now += timedelta(days=4)
    assert shown.current() is not first
    own = replica.made(DOMAIN)
    await replica.put(own)
    assert shown.current().chain == own.chain
    assert shown.current() is shown.current()


async def test_a_registry_without_the_ca_s_key_shows_one_that_nobody_trusts(replica: Replica) -> None:
    """Until its own is there."""
    shown = OwnNameCertificate(replica.held, DOMAIN, ClusterAuthority(replica.ca.pem, None), lambda: replica.now)
    assert DOMAIN in dns_names(shown.current().certificate)
