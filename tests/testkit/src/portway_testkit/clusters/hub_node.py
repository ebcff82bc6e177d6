"""A node at a registry's hub, without any gRPC: what it says, and what it hears."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from portway_proto.v1.mesh_pb2 import NodeMessage, Peers, Register, RegistryMessage
from portway_registry.nodes.hub import Hub

from portway_testkit.clusters.registry import node_info
from portway_testkit.waiting import PATIENCE


class HubNode:
    """Both ends of its stream."""

    def __init__(self, hub: Hub, name: str, certificate: bytes = b"", **info: Any) -> None:
        self._requests: asyncio.Queue[NodeMessage] = asyncio.Queue()
        self._changed = asyncio.Event()
        self.heard: list[RegistryMessage] = []
        register = Register(node=node_info(name, state=0, **info))
        self.task = asyncio.ensure_future(hub.serve(register, self._say(), self._write, certificate=certificate))

    async def until(self, kind: str, number: int = 1) -> RegistryMessage:
        """The `number`-th message of a kind."""
        return (await self._heard(kind, lambda found: len(found) >= number))[number - 1]

    async def last(self, kind: str, is_it: Callable[[RegistryMessage], object]) -> RegistryMessage:
        """The last message of a kind, once it is the one. Lists come as often as something has changed: again just
        after a registration, or once where two follow each other closely."""
        return (await self._heard(kind, lambda found: found and is_it(found[-1])))[-1]

    async def lists(self, *names: str) -> Peers:
        """The last list of peers, once these are on it."""
        return (await self.last("peers", lambda message: {one.name for one in message.peers.nodes} == {*names})).peers

    def say(self, **message: Any) -> None:
        self._requests.put_nowait(NodeMessage(**message))

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _heard(self, kind: str, enough: Callable[[list[RegistryMessage]], object]) -> list[RegistryMessage]:
        """All messages of a kind, once they are enough."""
        async with asyncio.timeout(PATIENCE):
            while not enough(found := [message for message in self.heard if message.HasField(kind)]):  # type: ignore[arg-type]
                self._changed.clear()
                await self._changed.wait()
        return found

    async def _say(self) -> AsyncIterator[NodeMessage]:
        while True:
            yield await self._requests.get()

    async def _write(self, message: RegistryMessage) -> None:
        self.heard.append(message)
        self._changed.set()


@asynccontextmanager
async def node(hub: Hub, name: str, **info: Any) -> AsyncIterator[HubNode]:
    """One that has registered, until the block ends."""
    node = HubNode(hub, name, **info)
    try:
        await node.until("registered")
        yield node
    finally:
        await node.stop()
