"""A store that keeps nothing, and a certificate authority for all tests of this folder."""

from collections.abc import AsyncIterator, Iterator

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import read_presence
from portway_registry.state import keys
from portway_registry.state.records import Role, TenantRecord, TokenRecord, encode
from portway_registry.state.views import Views
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.announcing import Announcing
from portway_testkit.clusters.registry import Pki
from portway_testkit.clusters.views import settle


@pytest.fixture(autouse=True)
def let_go(request: pytest.FixtureRequest) -> Iterator[None]:
    """gRPC closes its last socket with its last object, and pytest keeps fixtures' values for longer than they live."""
    yield
    request.node.funcargs.clear()


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki") / "pki")


@pytest.fixture
async def memory() -> AsyncIterator[EmbeddedStore]:
    failures: list[BaseException] = []
    store = EmbeddedStore(None, on_failure=failures.append)
    yield store
    await store.close()
    assert not failures


class Cluster:
    """A store and one replica's views of it, which `settle` brings up to date."""

    def __init__(self, store: EmbeddedStore, views: Views) -> None:
        self.store = store
        self.views = views

    async def settle(self) -> None:
        views = self.views
        for view in (
            views.nodes,
            views.tunnels,
            views.tokens,
            views.tenants,
            views.grant_keys,
            views.port_blocks,
            views.presences,
        ):
            await settle(self.store, view.mirror)

    async def put_token(self, token_id: str, *, max_tunnels: int = 0, revoked_at_ms: int = 0) -> None:
        record = TokenRecord(token_id, "demo", Role.CLIENT, b"", max_tunnels=max_tunnels, revoked_at_ms=revoked_at_ms)
        await self.store.put(keys.token(token_id), encode(record))
        await self.settle()

    async def put_tenant(self, name: str, max_tunnels: int) -> None:
        await self.store.put(keys.tenant(name), encode(TenantRecord(name, max_tunnels)))
        await self.settle()

    async def put_tunnel(self, tunnel: TunnelInfo) -> None:
        await self.store.put(keys.tunnel(tunnel.label), tunnel.SerializeToString())
        await self.settle()

    async def presences(self) -> dict[str, int]:
        """The time by session key in hex, from the store itself."""
        found = (await self.store.list(keys.PRESENCES)).entries
        return {one.key.removeprefix(keys.PRESENCES): read_presence(one.value).time_ms for one in found}

    async def tunnels(self) -> dict[str, tuple[str, int]]:
        """Node and epoch by label, from the store itself."""
        found = [TunnelInfo.FromString(entry.value) for entry in (await self.store.list(keys.TUNNELS)).entries]
        return {tunnel.label: (tunnel.node, tunnel.epoch) for tunnel in found}


@pytest.fixture
async def cluster(memory: EmbeddedStore) -> AsyncIterator[Cluster]:
    failures: list[BaseException] = []
    views = Views(memory, on_failure=failures.append)
    await views.start()
    yield Cluster(memory, views)
    await views.close()
    assert not failures


@pytest.fixture
async def announcing(cluster: Cluster) -> AsyncIterator[Announcing]:
    announcing = Announcing(cluster.store, cluster.views)
    yield announcing
    announcing.close()
