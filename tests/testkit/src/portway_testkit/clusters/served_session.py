"""One node's session over a store that a test can take away, without any gRPC."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from portway_proto.v1.mesh_pb2 import AnnouncedSession, NodeMessage, RegistryMessage
from portway_proto.v1.types_pb2 import NodeInfo, TunnelInfo
from portway_registry.errors import NodeRemoved, StoreUnavailable
from portway_registry.nodes.session import NodeSession
from portway_registry.state.views import Item, Views
from portway_registry.store.contract import NO_LEASE, Entry, LeaseId, Revision
from portway_registry.store.embedded import EmbeddedStore

from portway_testkit.clusters.announcing import Announcing

PATIENCE = 10.0
NOW_MS = 1_700_000_000_000
T = TypeVar("T")


class Fickle(EmbeddedStore):
    """A store that can be away; `refused` counts what was asked of it meanwhile."""

    def __init__(self) -> None:
        super().__init__(None, on_failure=print)
        self.away = False
        self.refused = 0
        self.asked = asyncio.Event()

    def _check(self) -> None:
        if self.away:
            self.refused += 1
            self.asked.set()
            raise StoreUnavailable("away")

    async def get(self, key: str) -> Entry | None:
        self._check()
        return await super().get(key)

    async def write(self, writes: Any) -> tuple[bool, ...]:
        self._check()
        return await super().write(writes)

    async def keep_lease(self, lease: LeaseId) -> None:
        self._check()
        await super().keep_lease(lease)

    async def grant_lease(self, ttl: float) -> LeaseId:
        self._check()
        return await super().grant_lease(ttl)


class Running:
    """A session that is served, with a test in the node's place."""

    def __init__(self, store: Fickle, views: Views, info: NodeInfo, *, lease_seconds: int = 60) -> None:
        self.store = store
        self.announcing = Announcing(store, views)
        self.session = NodeSession(
            store,
            self.announcing.node(info.name, info.region),
            info,
            lease_seconds=lease_seconds,
            now_ms=lambda: NOW_MS,
            issued_ms=0,
            certificate=b"",
            still_current=self._still_current,
            on_probed=lambda probed: None,
            on_dns=lambda: None,
            invalid_tokens=self._invalid_tokens,
        )
        self.heard: list[RegistryMessage] = []
        self.is_out = False  # the store says that the node was removed
        self.outages = 0  # look-ups of tokens that fail
        self._requests: asyncio.Queue[NodeMessage | None] = asyncio.Queue()
        self._changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def start(self, lease: int = 0) -> None:
        await self.session.register(lease)
        self.task = asyncio.ensure_future(self.session.serve(self._say(), self._write))

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        self.announcing.close()

    async def tunnel(self) -> tuple[TunnelInfo, AnnouncedSession]:
        """A tunnel of a client at this node, and its session."""
        client = await self.announcing.client()
        return client.tunnel("fra-1"), client.session("fra-1")

    def say(self, **message: Any) -> None:
        self._requests.put_nowait(NodeMessage(**message))

    def leave(self) -> None:
        self._requests.put_nowait(None)

    async def over(self) -> None:
        """Raises what ended the session."""
        assert self.task is not None
        async with asyncio.timeout(PATIENCE):
            await self.task

    async def until(self, found: Callable[[], T]) -> T:
        async with asyncio.timeout(PATIENCE):
            while not (result := found()):
                self._changed.clear()
                await self._changed.wait()
        return result

    def leases(self) -> list[int]:
        return [message.registered.lease_id for message in self.heard if message.HasField("registered")]

    def announced(self) -> list[int]:
        return [message.announced.batch for message in self.heard if message.HasField("announced")]

    def evicted(self) -> list[str]:
        return [one.label for message in self.heard for one in message.evictions.evictions]

    def revoked(self) -> list[str]:
        return [one for message in self.heard for one in message.revocations.token_ids]

    async def _still_current(self) -> None:
        if self.is_out:
            raise NodeRemoved("fra-1")

    async def _invalid_tokens(self, token_ids: Sequence[str]) -> list[str]:
        if self.outages:
            self.outages -= 1
            raise StoreUnavailable("away")
        return [one for one in token_ids if one.startswith("bad")]

    @property
    def unread(self) -> int:
        """Messages that the session has not read yet."""
        return self._requests.qsize()

    async def _say(self) -> AsyncIterator[NodeMessage]:
        while (message := await self._requests.get()) is not None:
            yield message

    async def _write(self, message: RegistryMessage) -> None:
        self.heard.append(message)
        self._changed.set()


def item(tunnel: TunnelInfo) -> Item[TunnelInfo]:
    """A tunnel as a view shows it, on no lease."""
    return Item(tunnel.label, tunnel, Revision(1), Revision(1), NO_LEASE)
