"""Streams that were opened with a token before it was revoked."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from portway_proto.v1 import admin_pb2
from portway_proto.wire.statements import SigningKey
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import PATIENCE, Pki, bearer, channel, node_info, running

EPOCHS = 50
WITHIN = 2.0  # seconds, as docs/architecture/threats.md promises


async def synced(watch: Any) -> None:
    """Read a watch until everything that was known before has come."""
    while (await watch.read()).kind != admin_pb2.CHANGE_KIND_SYNCED:
        pass


async def rest_of(watch: Any) -> tuple[list[Any], StatusCode, str]:
    """Read a watch to its end; returns the changes that came, and the status."""
    changes = []
    try:
        async with asyncio.timeout(PATIENCE):
            while (change := await watch.read()) is not grpc.aio.EOF:
                changes.append(change)
    except grpc.aio.AioRpcError as error:
        return changes, error.code(), error.details() or ""
    return changes, StatusCode.OK, ""


@pytest.mark.parametrize("kind", ["Nodes", "Tunnels"])
async def test_a_watch_ends_with_its_token(
    public: grpc.aio.Channel, registry: Registry, admin: AdminCaller, kind: str
) -> None:
    """The status says that the token was revoked; a watch of another token goes on."""
    token = await admin.new_token(role=admin_pb2.ROLE_ADMIN)
    kept = await admin.new_token(role=admin_pb2.ROLE_ADMIN)
    method, request = getattr(admin.stub, f"Watch{kind}"), getattr(admin_pb2, f"Watch{kind}Request")
    watch, other = method(request(), metadata=bearer(token.token)), method(request(), metadata=bearer(kept.token))
    await synced(watch)
    await synced(other)
    await admin.revoke(token.info.id)
    began = time.monotonic()  # it is in the store
    _, code, text = await rest_of(watch)
    assert time.monotonic() - began < WITHIN
    assert (code, "revoked" in text) == (StatusCode.UNAUTHENTICATED, True)
    assert not other.done()
    other.cancel()


async def test_a_watch_that_is_not_read_ends_too(
    public: grpc.aio.Channel, registry: Registry, pki: Pki, admin: AdminCaller
) -> None:
    """Its messages fill the connection, so the registry waits to write; nothing more comes after the revocation."""
    token = await admin.new_token(role=admin_pb2.ROLE_ADMIN)
    async with (
        channel(registry.address, pki.ca, window_grows=False) as alone,
        NodeStream(registry.mesh_address, pki, node_info("fra-1")) as node,
    ):
        watch = alone.unary_stream(
            "/portway.v1.Admin/WatchTunnels",
            request_serializer=admin_pb2.WatchTunnelsRequest.SerializeToString,
            response_deserializer=admin_pb2.WatchTunnelsResponse.FromString,
        )(admin_pb2.WatchTunnelsRequest(), metadata=bearer(token.token))
        await synced(watch)
        # Changes of some 450 bytes, of which the stream's window of 64 KiB and what the two sides hold take up a part.
        client, keys = await admin.client(), [SigningKey() for _ in range(40)]
        for epoch in range(1, EPOCHS + 1):
            client.signer.held.clear()
            await node.announce(*(client.tunnel("fra-1", key, epoch, host="h" * 250) for key in keys), of=[client])
        await admin.revoke(token.info.id)
        await asyncio.sleep(WITHIN)
        late = client.tunnel("fra-1")
        await node.announce(late, of=[client])
        changes, code, _ = await rest_of(watch)
        assert code is StatusCode.UNAUTHENTICATED
        assert late.label not in {change.tunnel.label for change in changes}
        assert len(changes) < len(keys) * EPOCHS, "the registry never waited to write"


async def test_a_watch_at_another_replica_ends_too(etcd: EtcdServer, pki: Pki, tmp_path: Path) -> None:
    """Every replica follows the tokens of the store."""
    store = f"etcd:{etcd.url}"
    one, two = pki.config(tmp_path, store=store), pki.config(tmp_path, store=store)
    async with running(one) as first, running(two) as second:
        await _watch_elsewhere(one, first, second, pki)


async def _watch_elsewhere(config: Config, first: Registry, second: Registry, pki: Pki) -> None:
    from portway_proto.v1.admin_pb2_grpc import AdminStub

    assert config.admin_token_file is not None
    shown = bearer(config.admin_token_file.read_text().strip())
    async with channel(first.address, pki.ca) as here, channel(second.address, pki.ca) as there:
        request = admin_pb2.CreateTokenRequest(tenant="demo", role=admin_pb2.ROLE_ADMIN)
        token = await AdminStub(here).CreateToken(request, metadata=shown)
        watch: Any = AdminStub(there).WatchNodes(admin_pb2.WatchNodesRequest(), metadata=bearer(token.token))
        await synced(watch)
        await AdminStub(here).RevokeToken(admin_pb2.RevokeTokenRequest(id=token.info.id), metadata=shown)
        began = time.monotonic()  # it is in the store
        assert (await rest_of(watch))[1] is StatusCode.UNAUTHENTICATED
        assert time.monotonic() - began < WITHIN
