"""Looking for a registry that reaches its store, while this node's own does not.

Here: asking the registries, one after the other, until one says so. Not here: whether this node's own does, and what
follows from an answer (stream.py).
"""

import asyncio
import random
from dataclasses import dataclass
from typing import Final

from grpc import aio
from portway_proto.v1.mesh_pb2 import CheckStoreRequest
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_runtime.backoff import Backoff
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import NoDescriptors, NoThread
from portway_runtime.grpc_channels import CallFault

from portway_relay.registry_link.calls import fault_of
from portway_relay.registry_link.channels import RegistryChannels, Unresolved
from portway_relay.registry_link.registries import Registries

# Seconds within which the nodes of one registry begin, each at a random moment: they are told together.
_SPREAD: Final = 2.0
# Seconds between two rounds: the first pause and the longest. While the store is lost for all registries, each node
# makes a handshake with each of them in every round.
_PAUSES: Final = (2.0, 30.0)
# Seconds for one answer, handshake included: a registry waits 2 s for its store.
_ANSWER_TIME: Final = 4.0


@dataclass(frozen=True, slots=True)
class Found:
    """A registry that reaches its store, and the channel on which it has said so: by a name, another one may answer."""

    registry: Endpoint
    channel: aio.Channel


class StoreSearch:
    """Asks the registries that this node knows."""

    def __init__(self, registries: Registries, channels: RegistryChannels) -> None:
        self._registries = registries
        self._channels = channels

    async def find(self) -> Found:
        """Ask until one is found. Its channel is the caller's; cancelled, none is left open."""
        await asyncio.sleep(random.uniform(0, _SPREAD))  # noqa: S311 - spreads load, guards nothing
        pauses = Backoff(*_PAUSES)
        while True:
            # In any order: not all nodes to the same one. The current one, too, whose name may lead to several; it is
            # last, as it waits for its store before it answers.
            current, *others = self._registries.known
            for registry in (*random.sample(others, len(others)), current):
                channel = await self._ask(registry)
                if channel is not None:
                    return Found(registry, channel)
            await asyncio.sleep(pauses.next())

    async def _ask(self, registry: Endpoint) -> aio.Channel | None:
        try:
            for way in await self._channels.ways_to(registry, apart=True):
                channel = self._channels.open(way)
                found = False
                try:
                    found = await self._reaches_store(registry, channel)
                finally:
                    if not found:
                        await channel.close()
                if found:
                    return channel
        except (Unresolved, NoDescriptors, NoThread):
            self._channels.forget(registry)
        return None

    async def _reaches_store(self, registry: Endpoint, channel: aio.Channel) -> bool:
        """What the registry says; one of an earlier release, or one that cannot be asked, says no."""
        try:
            answer = await MeshStub(channel).CheckStore(CheckStoreRequest(), timeout=_ANSWER_TIME)
        except aio.AioRpcError as error:
            if fault_of(error) is CallFault.WRONG_NAME:
                self._channels.has_another_name(registry)  # for the next round
            return False
        return answer.answers
