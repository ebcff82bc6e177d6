"""Views over a store in memory, with what tests put there."""

from collections.abc import AsyncIterator

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_registry import keys
from portway_registry.records import Role, TokenRecord, encode
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.views import Views


class Cluster:
    """A store and one replica's views of it, which `settle` brings up to date."""

    def __init__(self, store: EmbeddedStore, views: Views) -> None:
        self.store = store
        self.views = views

    async def settle(self) -> None:
        revision = (await self.store.list("")).revision
        for view in (
            self.views.nodes,
            self.views.tunnels,
            self.views.tokens,
            self.views.grant_keys,
            self.views.port_blocks,
        ):
            await view.settled(revision)

    async def put_token(self, token_id: str, *, max_tunnels: int = 0, revoked_at_ms: int = 0) -> None:
        record = TokenRecord(token_id, "demo", Role.CLIENT, b"", max_tunnels=max_tunnels, revoked_at_ms=revoked_at_ms)
        await self.store.put(keys.token(token_id), encode(record))
        await self.settle()

    async def put_tunnel(self, tunnel: TunnelInfo) -> None:
        await self.store.put(keys.tunnel(tunnel.label), tunnel.SerializeToString())
        await self.settle()

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
