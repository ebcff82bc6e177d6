"""A whole registry on either store, its certificates, and tokens for whoever calls."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.registry import (
    PATIENCE,
    NodeStream,
    Pki,
    bearer,
    channel,
    client_of,
    node_info,
    running,
)
from portway_testkit.signers import AnnouncedClient


@pytest.fixture(autouse=True)
def let_go(request: pytest.FixtureRequest) -> Iterator[None]:
    """gRPC closes its last socket with its last object, and pytest keeps fixtures' values for longer than they live."""
    yield
    request.node.funcargs.clear()


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki") / "pki")


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def etcd(etcd_server: EtcdServer) -> EtcdServer:
    """An etcd that holds nothing."""
    etcd_server.clear()
    return etcd_server


@pytest.fixture(params=["embedded", "etcd"])
def store_text(request: pytest.FixtureRequest) -> str:
    """A registry's --store."""
    if request.param == "etcd":
        server: EtcdServer = request.getfixturevalue("etcd")
        return f"etcd:{server.url}"
    return "embedded:memory"


@pytest.fixture
def config(pki: Pki, tmp_path: Path, store_text: str) -> Config:
    return pki.config(tmp_path, store=store_text)


@pytest.fixture
async def registry(config: Config) -> AsyncIterator[Registry]:
    async with running(config) as registry:
        yield registry


@pytest.fixture
async def public(registry: Registry, pki: Pki) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the port of clients and operators."""
    async with channel(registry.address, pki.ca) as opened:
        yield opened


@pytest.fixture
def admin_token(registry: Registry, config: Config) -> str:
    """The token that the registry's first start has made."""
    assert config.admin_token_file is not None
    return config.admin_token_file.read_text().strip()


class AdminCaller:
    """Admin's methods, with the token shown."""

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


@pytest.fixture
def admin(public: grpc.aio.Channel, admin_token: str, registry: Registry, pki: Pki) -> AdminCaller:
    return AdminCaller(public, admin_token, registry, pki)
