"""A registry alone in the test's own loop, and what an attacker may hold: a node's certificate, a client's token."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.registry import Pki, bearer, channel, client_of, running
from portway_testkit.signers import AnnouncedClient


@pytest.fixture(autouse=True)
def let_go(request: pytest.FixtureRequest) -> Iterator[None]:
    """gRPC closes its last socket with its last object, and pytest keeps fixtures' values for longer than they live."""
    yield
    request.node.funcargs.clear()


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki") / "pki")


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def config(pki: Pki, tmp_path: Path) -> Config:
    return pki.config(tmp_path)


@pytest.fixture
async def registry(config: Config) -> AsyncIterator[Registry]:
    async with running(config) as registry:
        yield registry


@pytest.fixture
async def public(registry: Registry, pki: Pki) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the port of clients and operators."""
    async with channel(registry.address, pki.ca) as opened:
        yield opened


class Operator:
    """Admin's methods, with the first admin token."""

    def __init__(self, public: grpc.aio.Channel, token: str) -> None:
        self.stub = AdminStub(public)
        self._public = public
        self.shown = bearer(token)

    async def new_token(
        self, *, role: "admin_pb2.Role.ValueType" = admin_pb2.ROLE_CLIENT
    ) -> admin_pb2.CreateTokenResponse:
        request = admin_pb2.CreateTokenRequest(tenant="demo", role=role)
        return await self.stub.CreateToken(request, metadata=self.shown)

    async def client(self) -> AnnouncedClient:
        """A client with a token of its own."""
        return await client_of(self._public, (await self.new_token()).token)

    async def set_quota(self, tenant: str, max_tunnels: int) -> None:
        request = admin_pb2.SetTenantQuotaRequest(name=tenant, max_tunnels=max_tunnels)
        await self.stub.SetTenantQuota(request, metadata=self.shown)

    async def revoke(self, token_id: str) -> None:
        await self.stub.RevokeToken(admin_pb2.RevokeTokenRequest(id=token_id), metadata=self.shown)


@pytest.fixture
def operator(public: grpc.aio.Channel, config: Config, registry: Registry) -> Operator:
    assert config.admin_token_file is not None
    return Operator(public, config.admin_token_file.read_text().strip())
