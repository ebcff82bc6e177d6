"""A token that is revoked is worth nothing within two seconds, on every replica and every node."""

import grpc
import pytest
from grpc import StatusCode
from portway_proto.v1 import admin_pb2
from portway_proto.v1.discovery_pb2 import RenewRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import SESSION_KEY, Pki, bearer, channel, node_info, running
from portway_testkit.own_time import OwnTime

WITHIN = 2.0  # seconds, as docs/architecture/trust.md promises


async def test_a_revocation_reaches_every_node(
    registry: Registry, pki: Pki, admin: AdminCaller, own_time: OwnTime
) -> None:
    """Nodes are told of a revoked token on their open streams, in less than two seconds."""
    token = await admin.new_token()
    async with (
        NodeStream(registry.mesh_address, pki, node_info("fra-1")) as one,
        NodeStream(registry.mesh_address, pki, node_info("lon-1")) as other,
    ):
        await admin.revoke(token.info.id)
        began = own_time()  # it is in the store
        for node in (one, other):
            await node.until(lambda: token.info.id in node.revoked)
        assert own_time() - began < WITHIN


async def test_a_node_that_registers_later_is_told_too(registry: Registry, pki: Pki, admin: AdminCaller) -> None:
    """What was revoked while a node was away is the first thing it hears after its registration."""
    token = await admin.new_token()
    await admin.revoke(token.info.id)
    async with NodeStream(registry.mesh_address, pki, node_info("fra-1")) as node:
        await node.until(lambda: token.info.id in node.revoked)


async def test_a_revoked_token_is_refused_from_the_answer_on(
    registry: Registry, public: grpc.aio.Channel, admin: AdminCaller
) -> None:
    """Once RevokeToken has answered, the token's holder gets no further grant, and is told why."""
    token = await admin.new_token()
    discovery = DiscoveryStub(public)
    assert (await discovery.Renew(RenewRequest(session_key=SESSION_KEY), metadata=bearer(token.token))).grant.token
    await admin.revoke(token.info.id)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await discovery.Renew(RenewRequest(session_key=SESSION_KEY), metadata=bearer(token.token))
    assert raised.value.code() is StatusCode.UNAUTHENTICATED
    assert "revoked" in (raised.value.details() or "")


@pytest.mark.parametrize("store_text", ["etcd"], indirect=True)
async def test_a_revocation_reaches_the_nodes_of_other_replicas(
    registry: Registry, config: Config, etcd: EtcdServer, pki: Pki, admin: AdminCaller, own_time: OwnTime
) -> None:
    """A node at another replica hears of it as fast, and that replica refuses the token as well."""
    token = await admin.new_token()
    async with (
        running(config) as replica,
        NodeStream(replica.mesh_address, pki, node_info("fra-1")) as node,
        channel(replica.address, pki.ca) as there,
    ):
        discovery = DiscoveryStub(there)
        assert (await discovery.Renew(RenewRequest(session_key=SESSION_KEY), metadata=bearer(token.token))).grant.token
        await admin.revoke(token.info.id)
        began = own_time()  # it is in the store
        await node.until(lambda: token.info.id in node.revoked)
        assert own_time() - began < WITHIN
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await discovery.Renew(RenewRequest(session_key=SESSION_KEY), metadata=bearer(token.token))
        assert raised.value.code() is StatusCode.UNAUTHENTICATED


async def test_the_last_admin_token_cannot_be_revoked(
    registry: Registry, public: grpc.aio.Channel, admin: AdminCaller
) -> None:
    """A cluster is never left without an admin; with a second token the first can go."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await admin.revoke("admin")
    assert raised.value.code() is StatusCode.INVALID_ARGUMENT
    assert "last admin token" in (raised.value.details() or "")
    await admin.new_token(role=admin_pb2.ROLE_ADMIN)
    await admin.revoke("admin")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await admin.new_token()
    assert refused.value.code() is StatusCode.UNAUTHENTICATED
