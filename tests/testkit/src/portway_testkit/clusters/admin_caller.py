"""Calls of an admin to a registry in the test's own loop, and the clients and tunnels that it then has.

Not here: calls of a test that blocks (admin_calls.py).
"""

import asyncio

import grpc
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING
from portway_registry.server import Registry

from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import PATIENCE, Pki, bearer, client_of, node_info
from portway_testkit.signers import AnnouncedClient


class AdminCaller:
    """Admin's methods on one channel, with the token shown."""

    def __init__(self, public: grpc.aio.Channel, token: str, registry: Registry, pki: Pki) -> None:
        self.stub = AdminStub(public)
        self._public = public
        self._marking: AnnouncedClient | None = None
        self.shown = bearer(token)
        self._registry = registry
        self._pki = pki

    async def new_token(
        self,
        *,
        role: "admin_pb2.Role.ValueType" = admin_pb2.ROLE_CLIENT,
        max_tunnels: int = 0,
        tenant: str = "demo",
    ) -> admin_pb2.CreateTokenResponse:
        request = admin_pb2.CreateTokenRequest(tenant=tenant, role=role, max_tunnels=max_tunnels)
        return await self.stub.CreateToken(request, metadata=self.shown)

    async def client(self, token: admin_pb2.CreateTokenResponse | None = None) -> AnnouncedClient:
        """A client with a token of its own, or this one."""
        return await client_of(self._public, (token or await self.new_token()).token)

    async def invite(self, region: str = "fra", node: str = "") -> admin_pb2.InviteNodeResponse:
        request = admin_pb2.InviteNodeRequest(region=region, node=node)
        return await self.stub.InviteNode(request, metadata=self.shown)

    async def revoke(self, token_id: str) -> None:
        await self.stub.RevokeToken(admin_pb2.RevokeTokenRequest(id=token_id), metadata=self.shown)

    async def set_quota(self, tenant: str, max_tunnels: int) -> None:
        request = admin_pb2.SetTenantQuotaRequest(name=tenant, max_tunnels=max_tunnels)
        await self.stub.SetTenantQuota(request, metadata=self.shown)

    async def tunnels(self) -> dict[str, tuple[str, int]]:
        """Node and epoch by label, as the store has them now.

        A replica shows changes in their order, a moment late: once it shows a tunnel announced here, it shows
        whatever was announced before.
        """
        if self._marking is None:
            self._marking = await self.client(await self.new_token(tenant="marker"))
        client = self._marking
        marker = client.tunnel("marker")
        info = node_info("marker", "nowhere")
        async with NodeStream(self._registry.mesh_address, self._pki, info) as node:
            await node.announce(marker, of=[client])
            await self._shown(marker.label)
            answer = await self.stub.ListTunnels(admin_pb2.ListTunnelsRequest(), metadata=self.shown)
            await node.keep_alive(state=NODE_STATE_DRAINING)
            await node.leave()
        return {one.label: (one.node, one.epoch) for one in answer.tunnels if one.label != marker.label}

    async def nodes(self) -> list[str]:
        answer = await self.stub.ListNodes(admin_pb2.ListNodesRequest(), metadata=self.shown)
        return [node.name for node in answer.nodes if node.name != "marker"]

    async def _shown(self, label: str) -> None:
        watch = self.stub.WatchTunnels(admin_pb2.WatchTunnelsRequest(), metadata=self.shown)
        try:
            async with asyncio.timeout(PATIENCE):
                async for change in watch:
                    if change.tunnel.label == label:
                        return
        finally:
            watch.cancel()
        raise AssertionError("the watch ended")
