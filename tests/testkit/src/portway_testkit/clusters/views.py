"""A store with a replica's views of it, and waiting until they show what the store has."""

import asyncio
from collections.abc import Callable
from typing import Any

from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import read_presence
from portway_registry.state import keys
from portway_registry.state.records import Role, TenantRecord, TokenRecord, encode
from portway_registry.state.views import View, Views
from portway_registry.store.contract import Store
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.mirror import Mirror


class ViewedStore:
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
            views.front_key,
            views.identities,
            views.orders,
            views.replicas,
            views.port_blocks,
            views.orders,
            views.dns,
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


async def settle(store: Store, *mirrors: Mirror) -> None:
    """Wait until each mirror shows every entry below its prefix as the store has it now, and no other."""
    for mirror in mirrors:
        listed = {entry.key for entry in (await store.list(mirror.prefix)).entries}
        for key in listed | set(mirror.entries):
            await mirror.caught_up(key)


async def shows(view: View[Any], condition: Callable[[], object]) -> None:
    """Wait until `condition()` is true, which is looked at after each change of the view; 10 s at most."""
    changed = asyncio.Event()
    unsubscribe = view.subscribe(lambda old, new: changed.set())
    try:
        async with asyncio.timeout(10):
            while not condition():
                changed.clear()
                await changed.wait()
    finally:
        unsubscribe()
