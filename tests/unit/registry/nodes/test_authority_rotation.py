"""The stages of a CA's replacement, and what each waits for."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
import pytest
from portway_proto.v1.types_pb2 import NodeInfo
from portway_registry.errors import InvalidRequest, NotFound, NotYet, StoreError
from portway_registry.nodes.authority_rotation import AuthorityRotation
from portway_registry.nodes.authority_status import AuthorityState, AuthorityStatus
from portway_registry.pki.cluster_authority import ClusterAuthority, stored_authority
from portway_registry.pki.signing import Signer
from portway_registry.state import keys, lookout
from portway_registry.state.audit import Audit
from portway_registry.state.records import (
    IdentityRecord,
    NotedCertificate,
    Order,
    OrderRecord,
    ReplicaRecord,
    StoredAuthority,
    decode_authority,
    encode,
)
from portway_registry.store.contract import Entry
from portway_testkit.clusters.views import ViewedStore, settle

NOW = 1_800_000_000_000
HOUR = 3_600_000
LIFE = 48 * HOUR
# Seconds: what is due takes effect within, on a busy machine too.
PATIENCE = 20.0
# Seconds for which what is not due is waited for.
HASTE = 0.05


class Stage:
    """A cluster with a CA of its own, at a time that the test sets."""

    def __init__(self, cluster: ViewedStore, authority: ClusterAuthority) -> None:
        self.now = NOW
        self.cluster = cluster
        self.store = cluster.store
        self.authority = authority
        self.old = authority.issuer_id
        ticks = itertools.count(NOW)
        self.audit = Audit(self.store, lambda: next(ticks))
        self.rotation, self._hasty = (
            AuthorityRotation(
                self.store,
                cluster.views,
                authority,
                self.audit,
                lambda: self.now,
                certificate_life_ms=LIFE,
                patience=patience,
            )
            for patience in (PATIENCE, HASTE)
        )

    async def rotate(self, *, force: bool = False) -> AuthorityStatus:
        return await self.rotation.rotate(force=force, by="admin")

    async def announce(self) -> AuthorityStatus:
        """An operator replaces the CA, and the next one does not issue yet."""
        return await self._hasty.rotate(force=False, by="admin")

    async def retire(self, authority: str, *, force: bool = False) -> None:
        await self.rotation.retire(authority, force=force, by="admin")
        await self.settle()

    async def node(self, name: str, *trusted: str, of: str = "", untold: int = 0) -> None:
        """A node that lives, trusts these CAs, and has a certificate of `of`."""
        info = NodeInfo(name=name, region="fra", authorities=trusted, certificate_authority=of, unaware_clients=untold)
        await self.store.put(keys.node(name), info.SerializeToString())
        await self.settle()

    async def replica(self, name: str, *trusted: str, of: str = "") -> None:
        record = ReplicaRecord(name, authorities=trusted, certificate_authority=of)
        await self.store.put(keys.replica(name), encode(record))
        await self.settle()

    async def identity(self, name: str, authority: str = "", until: int = 0, trusted: tuple[str, ...] = ()) -> None:
        record = IdentityRecord(name, "fra", "one", 1, authority=authority, issued_until_ms=until, trusted=trusted)
        await self.store.put(keys.identity(name), encode(record))
        await self.settle()

    async def settle(self) -> None:
        views = self.cluster.views
        await self.cluster.settle()
        await settle(self.store, views.authority.mirror, views.identities.mirror, views.orders.mirror)

    def states(self) -> list[AuthorityState]:
        return [one.state for one in self.rotation.all().values()]

    def status(self, authority: str) -> AuthorityStatus:
        return next(one for one in self.rotation.all().values() if one.id == authority)

    async def audited(self) -> list[str]:
        return [one.action for one in reversed((await self.audit.page(100))[0])]


@pytest.fixture
async def stage(cluster: ViewedStore) -> AsyncIterator[Stage]:
    authority = await stored_authority(cluster.store, now_ms=NOW)
    await cluster.views.authority.caught_up("")
    unsubscribe = authority.follow(cluster.views.authority)
    yield Stage(cluster, authority)
    unsubscribe()


async def test_alone_a_registry_replaces_it_at_once(stage: Stage) -> None:
    """Announced, issuing, and the one before retired; each is audited, and the key changes with the certificate."""
    signer = stage.authority.signer
    made = await stage.rotate()
    assert (made.state, stage.states()) == (
        AuthorityState.ISSUING,
        [AuthorityState.ISSUING, AuthorityState.RETIRING],
    )
    assert stage.authority.ids == (made.id, stage.old)
    assert stage.authority.signer is not None
    assert stage.authority.signer is not signer
    await stage.retire(stage.old)
    assert (stage.authority.ids, stage.states()) == ((made.id,), [AuthorityState.ISSUING])
    assert await stage.audited() == ["ca.rotate", "ca.retire"]


@pytest.mark.parametrize("who", ["node", "replica", "client", "away", "away of an earlier release"])
async def test_whoever_does_not_trust_it_is_waited_for(stage: Stage, who: str) -> None:
    """And named. It is the same CA again and again; it issues once all trust it."""
    if who == "node":
        await stage.node("fra-1", stage.old)
    elif who == "replica":
        await stage.replica("r1", stage.old)
    elif who == "away":
        await stage.identity("fra-1", stage.old, NOW + HOUR, (stage.old,))
    elif who == "away of an earlier release":
        await stage.identity("fra-1")
    made = await stage.announce() if who != "client" else None
    if made is None:
        await stage.node("fra-1", stage.old)
        made = await stage.announce()
        await stage.node("fra-1", stage.old, made.id, untold=2)
        await stage.rotation.look()
        assert stage.status(made.id).unaware_clients_of == ("fra-1",)
    assert stage.states() == [AuthorityState.ISSUING, AuthorityState.ANNOUNCED]
    assert ("r1" if who == "replica" else "fra-1") in stage.status(made.id).waits_for
    assert (await stage.announce()).id == made.id
    assert stage.authority.issuer_id == stage.old
    if who == "replica":
        await stage.replica("r1", stage.old, made.id)
    elif who.startswith("away"):
        stage.now += LIFE + 1
    else:
        await stage.node("fra-1", stage.old, made.id)
    await stage.rotation.look()
    await stage.settle()
    assert stage.authority.issuer_id == made.id
    assert await stage.audited() == ["ca.rotate"]


async def test_clients_are_not_waited_for_longer_than_a_grant_lasts(stage: Stage) -> None:
    """One that never says what it was told would hold up every rotation for as long as it stays."""
    await stage.node("fra-1", stage.old)
    made = await stage.announce()
    await stage.node("fra-1", stage.old, made.id, untold=1)
    stage.now += 25 * HOUR
    await stage.rotation.look()
    await stage.settle()
    assert stage.status(made.id).unaware_clients_of == ("fra-1",)
    assert stage.authority.issuer_id == stage.old
    stage.now += 1
    await stage.rotation.look()
    await stage.settle()
    assert stage.authority.issuer_id == made.id


async def test_a_node_that_does_not_come_back_is_given_up(stage: Stage) -> None:
    """Once it is removed it is waited for no more, neither for the next CA nor for the end of the one before."""
    await stage.identity("fra-1", stage.old, NOW + HOUR, (stage.old,))
    made = await stage.announce()
    assert stage.status(made.id).unaware_away == ("fra-1",)
    await stage.store.put(keys.order("fra-1"), encode(OrderRecord("fra-1", Order.REMOVE)))
    await stage.settle()
    await stage.rotation.look()
    await stage.settle()
    await stage.retire(stage.old)
    assert stage.authority.ids == (made.id,)


async def test_by_force_it_issues_whoever_does_not_trust_it(stage: Stage) -> None:
    """The audit tells it apart."""
    await stage.node("fra-1", stage.old)
    made = await stage.rotate(force=True)
    assert made.state is AuthorityState.ISSUING
    assert await stage.audited() == ["ca.rotate", "ca.rotate-by-force"]


async def test_one_in_use_is_not_retired(stage: Stage) -> None:
    """The refusal names the nodes and registries, and those that are away with the end of their certificates."""
    await stage.node("fra-1", stage.old, of=stage.old)
    made = await stage.rotate(force=True)
    await stage.node("fra-1", stage.old, made.id, of=stage.old)
    await stage.replica("r1", stage.old, made.id, of=stage.old)
    await stage.identity("lon-1", stage.old, NOW + HOUR, (stage.old,))
    with pytest.raises(NotYet) as refused:
        await stage.retire(stage.old)
    assert "nodes: fra-1; registries: r1; nodes that are away, until 2027-01-15 09:00 UTC: lon-1" in str(refused.value)
    await stage.node("fra-1", stage.old, made.id, of=made.id)
    await stage.replica("r1", stage.old, made.id, of=made.id)
    with pytest.raises(NotYet, match="lon-1"):
        await stage.retire(stage.old)
    await stage.identity("lon-1", made.id, NOW + HOUR, (made.id, stage.old))
    await stage.retire(stage.old)
    assert stage.authority.ids == (made.id,)


async def test_a_certificate_that_may_not_have_arrived_counts_beside_the_one_before(stage: Stage) -> None:
    """A node that went away when it was to get its next certificate comes back with either."""
    made = await stage.rotate(force=True)
    former = NotedCertificate(stage.old, NOW + HOUR, (stage.old,))
    renewed = IdentityRecord(
        "fra-1",
        "fra",
        "one",
        1,
        authority=made.id,
        issued_until_ms=NOW + 2 * HOUR,
        trusted=(made.id, stage.old),
        former=former,
    )
    await stage.store.put(keys.identity("fra-1"), encode(renewed))
    await stage.settle()
    assert stage.status(made.id).unaware_away == ("fra-1",)
    with pytest.raises(NotYet, match="away, until 2027-01-15 09:00 UTC: fra-1"):
        await stage.retire(stage.old)
    stage.now = NOW + HOUR
    assert stage.status(made.id).unaware_away == ()
    await stage.retire(stage.old)
    assert stage.authority.ids == (made.id,)


async def test_by_force_one_in_use_is_retired(stage: Stage) -> None:
    """A CA whose key was stolen must go, whoever has to be invited anew."""
    await stage.node("fra-1", stage.old, of=stage.old)
    made = await stage.rotate(force=True)
    await stage.retire(stage.old, force=True)
    assert stage.authority.ids == (made.id,)
    assert (await stage.audited())[-1] == "ca.retire-by-force"


async def test_one_is_replaced_at_a_time(stage: Stage) -> None:
    """The next one waits for the end of the one before; the one that issues cannot go; an announced one may."""
    with pytest.raises(NotYet, match="ca rotate"):
        await stage.retire(stage.old, force=True)
    made = await stage.rotate()
    with pytest.raises(NotYet, match=f"ca retire {stage.old}"):
        await stage.rotate()
    await stage.retire(stage.old)
    await stage.node("fra-1", made.id, of=made.id)
    announced = await stage.announce()
    assert announced.state is AuthorityState.ANNOUNCED
    await stage.retire(announced.id)
    assert stage.authority.ids == (made.id,)
    with pytest.raises(NotFound, match="ca list"):
        await stage.retire(announced.id)


async def test_the_last_to_trust_it_lets_it_issue(stage: Stage) -> None:
    """At once, without a look at the clock; also at a replica that was not asked to rotate."""
    task = asyncio.ensure_future(stage.rotation.run())
    await stage.node("fra-1", stage.old)
    made = await stage.announce()
    assert made.state is AuthorityState.ANNOUNCED
    issues = asyncio.Event()
    stage.authority.subscribe(issues.set)
    await stage.node("fra-1", stage.old, made.id)
    async with asyncio.timeout(20):
        await issues.wait()
    assert stage.authority.issuer_id == made.id
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_one_from_files_is_listed_alone(cluster: ViewedStore) -> None:
    """Its files are replaced by whoever wrote them; who trusts which of them is shown."""
    first, second = Signer.create(), Signer.create()
    stage = Stage(cluster, ClusterAuthority(first.pem + second.pem, first, from_files=True))
    await stage.node("fra-1", stage.old)
    assert stage.states() == [AuthorityState.ISSUING, AuthorityState.ANNOUNCED]
    assert [one.unaware_nodes for one in stage.rotation.all().values()] == [(), ("fra-1",)]
    for attempt in (stage.rotate(), stage.retire(stage.old)):
        with pytest.raises(InvalidRequest, match="--cluster-ca"):
            await attempt


async def test_a_record_that_is_lost_or_damaged_is_named_and_changes_nothing(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The CA that is known stays in use; a rotation is refused until the record is back."""
    entry = await stage.store.get(keys.AUTHORITY)
    assert entry is not None
    for damage in ("deleted", "noise"):
        caplog.clear()
        if damage == "deleted":
            await stage.store.delete(keys.AUTHORITY)
        else:
            await stage.store.put(keys.AUTHORITY, b"noise")
        await stage.settle()
        assert stage.authority.ids == (stage.old,)
        assert keys.AUTHORITY in {record.__dict__.get("key") for record in caplog.records}
        with pytest.raises(NotYet, match="put back a copy"):
            await stage.rotate()
        await stage.store.put(keys.AUTHORITY, entry.value)
        await stage.settle()
    assert (await stage.rotate()).state is AuthorityState.ISSUING


async def test_a_record_that_goes_before_the_view_shows_it_ends_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has lost a CA that everybody trusts by now: it is tried again until the record is back."""
    await stage.node("fra-1", stage.old)
    made = await stage.announce()
    monkeypatch.setattr(lookout, "_AGAIN_AFTER", 0.02)
    real, asked = stage.store.get, asyncio.Semaphore(0)

    async def lost(key: str) -> Entry | None:
        asked.release()
        return None if key == keys.AUTHORITY else await real(key)

    await stage.node("fra-1", stage.old, made.id)
    monkeypatch.setattr(stage.store, "get", lost)
    task = asyncio.ensure_future(stage.rotation.run())
    async with asyncio.timeout(20):
        for _ in range(3):
            await asked.acquire()
    assert not task.done()
    issues = asyncio.Event()
    stage.authority.subscribe(issues.set)
    monkeypatch.setattr(stage.store, "get", real)
    async with asyncio.timeout(20):
        await issues.wait()
    assert stage.authority.issuer_id == made.id
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("damaged", ["next", "next key", "before"])
async def test_one_of_two_that_is_damaged_stops_nobody(
    stage: Stage, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Registries that run keep what they know and refuse changes until the record is back; one that starts says which
    of the CAs it is."""
    task = asyncio.ensure_future(stage.rotation.run())
    if damaged == "before":
        made = await stage.rotate()
    else:
        await stage.node("fra-1", stage.old)
        made = await stage.announce()
    entry = await stage.store.get(keys.AUTHORITY)
    assert entry is not None
    known, record = stage.authority.ids, decode_authority(entry.value)
    if damaged == "before":
        bad = msgspec.structs.replace(record, before=StoredAuthority(b"noise", b"noise", 1))
    else:
        assert record.next is not None
        certificate = b"noise" if damaged == "next" else record.next.certificate
        bad = msgspec.structs.replace(record, next=StoredAuthority(certificate, b"noise", 1))
    await stage.store.put(keys.AUTHORITY, encode(bad))
    await stage.settle()
    assert stage.authority.ids == known
    assert keys.AUTHORITY in {one.__dict__.get("key") for one in caplog.records}
    with pytest.raises(NotYet, match="put back a copy"):
        await stage.rotate()
    with pytest.raises(StoreError, match=f"the {'CA before' if damaged == 'before' else 'next CA'} is damaged"):
        await stored_authority(stage.store, now_ms=NOW)
    await stage.store.put(keys.AUTHORITY, entry.value)
    await stage.node("fra-1", *known, made.id)
    await stage.rotation.look()
    await stage.settle()
    assert stage.authority.issuer_id == made.id
    assert not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
