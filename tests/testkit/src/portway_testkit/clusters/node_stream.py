"""A node's side of its session at a registry: what it tells, and all that it hears.

Not here: the registry (registry.py), a session without gRPC (served_session.py).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import grpc
from portway_proto.v1.mesh_pb2 import (
    Announce,
    AnnouncedSession,
    ClusterSettings,
    KeepAlive,
    NodeMessage,
    Register,
    Registered,
    RegistryFronts,
    RegistryMessage,
    Withdrawal,
    ZoneCertificate,
)
from portway_proto.v1.mesh_pb2_grpc import MeshStub
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeCertificate, NodeInfo, TunnelInfo
from portway_registry.server import Registry
from portway_runtime.tasks import Tasks

from portway_testkit.clusters.registry import PATIENCE, Pki, channel, node_info
from portway_testkit.signers import AnnouncedClient

# What grpc.aio reports in place of the status when a server refuses a call while the client still sends: in one of some
# 500 refusals, more often under load. The call is made again.
_STATUS_LOST = "Internal error from Core"
_ALIVE_EVERY = 0.5  # seconds; the shortest leases of tests have 2

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class StreamEnded(Exception):
    """The registry ended a node's stream. Not frozen: `contextlib` sets the traceback of what it passes on."""

    code: grpc.StatusCode
    details: str


class Identities(Protocol):
    """A CA, and certificates of nodes for a registry's mesh port."""

    @property
    def ca(self) -> Path: ...

    def node(self, name: str) -> tuple[bytes, bytes]:
        """A node's certificate and key."""
        ...


class NodeStream:
    """A node's side of its session: `async with NodeStream(address, pki, info) as node:` is registered.

    `heard` is everything the registry has said, in order.
    """

    def __init__(
        self,
        address: str,
        pki: Identities | None,
        info: NodeInfo,
        *,
        certified: str | None = None,
        certificate: tuple[NodeCertificate, bytes] | None = None,
        lease: int = 0,
        batches: int = 0,
        clock: int = 0,
    ) -> None:
        """`certified`: the name in the certificate, where it differs; `certificate`: one of a registry's own making,
        and its key, in place of one of `pki`; `batches`: how many it announced before; `clock`: how many seconds it is
        ahead."""
        self.info = info
        self.heard: list[RegistryMessage] = []
        if certificate is not None:
            made, key = certificate
            self._channel = channel(address, made.cluster_ca, (made.certificate, key), mesh=True)
        else:
            assert pki is not None
            self._channel = channel(address, pki.ca, pki.node(certified or info.name), mesh=True)
        self._lease_wanted = lease
        self._clock = clock
        self._batch = batches
        self._tasks = Tasks(f"node {info.name}")
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()  # a gRPC stream allows one write at a time
        self._ended: StreamEnded | None = None
        self._stream: Any = None

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Register. Raises StreamEnded when the registry refuses."""
        while True:
            self._stream = MeshStub(self._channel).Session()
            self._tasks.spawn(self._hear(), name="hear")
            with suppress(grpc.aio.AioRpcError):  # refused already: `until` raises the reason
                await self.register()
            try:
                await self.until(lambda: self.registrations)
            except StreamEnded as ended:
                if ended.details != _STATUS_LOST:
                    raise
                self._ended = None
            else:
                return

    async def register(self) -> None:
        """Send a Register."""
        time_ms = int((time.time() + self._clock) * 1000)
        await self.send(NodeMessage(register=Register(node=self.info, lease_id=self._lease_wanted, time_ms=time_ms)))

    async def close(self) -> None:
        """Cancel the stream, as the death of a node does."""
        if self._stream is not None:
            self._stream.cancel()
        await self._tasks.close()
        await self._channel.close()

    async def leave(self) -> None:
        """End this side of the stream, and wait for the registry to end its side."""
        await self._stream.done_writing()
        await self.until(lambda: self._ended)

    @property
    def registrations(self) -> list[Registered]:
        return [message.registered for message in self.heard if message.HasField("registered")]

    @property
    def zones(self) -> dict[str, ZoneCertificate]:
        """The last certificate of each zone."""
        return {one.zone: one for message in self.heard for one in message.zone_certificates.certificates}

    @property
    def lease(self) -> int:
        return self.registrations[-1].lease_id

    @property
    def settings(self) -> ClusterSettings | None:
        """The last settings that were received."""
        told = [message.settings for message in self.heard if message.HasField("settings")]
        return told[-1] if told else None

    @property
    def revoked(self) -> set[str]:
        return {one for message in self.heard for one in message.revocations.token_ids}

    @property
    def evicted(self) -> list[tuple[str, int, int]]:
        """Label, epoch and reason of each eviction."""
        return [(one.label, one.epoch, one.reason) for message in self.heard for one in message.evictions.evictions]

    @property
    def evicted_by(self) -> list[bytes]:
        """The claim that each eviction names as the owner's."""
        return [one.claim for message in self.heard for one in message.evictions.evictions]

    @property
    def peers(self) -> set[str]:
        """The names of the nodes in the last list."""
        return {node.name for node in self._peers()}

    def peer_state(self, name: str) -> int | None:
        """The state of a node in the last list."""
        return next((node.state for node in self._peers() if node.name == name), None)

    async def until(self, found: Callable[[], T | None], *, within: float = PATIENCE) -> T:
        """The value of `found()` as soon as it is true; checked after each message. Raises StreamEnded,
        TimeoutError."""
        async with asyncio.timeout(within):
            while not (result := found()):
                if self._ended is not None:
                    raise self._ended
                self._changed.clear()
                await self._changed.wait()
        return result

    async def ended(self) -> StreamEnded:
        """Wait for the end of the stream; returns how it ended."""
        return await self.until(lambda: self._ended)

    async def send(self, message: NodeMessage) -> None:
        async with self._writing:
            await self._stream.write(message)

    async def keep_alive(self, **counts: Any) -> None:
        await self.send(NodeMessage(keep_alive=KeepAlive(**{"state": NODE_STATE_READY} | counts)))

    @property
    def port_owners(self) -> dict[int, str]:
        """The nodes of the blocks in the last list, by first port."""
        lists = [message.port_owners for message in self.heard if message.HasField("port_owners")]
        return {one.first: one.node for one in lists[-1].owners} if lists else {}

    @property
    def registry_fronts(self) -> RegistryFronts | None:
        """The last list of registries' public ports that names one."""
        lists = [message.registry_fronts for message in self.heard if message.registry_fronts.fronts]
        return lists[-1] if lists else None

    async def announce(
        self,
        *bound: TunnelInfo,
        of: Sequence[AnnouncedClient] = (),
        sessions: Sequence[AnnouncedSession] = (),
        withdrawn: tuple[TunnelInfo, ...] = (),
        full: bool = False,
        within: float = PATIENCE,
    ) -> None:
        """Send one batch and wait for its answer: it is in the store then, and its evictions have been received.

        of: clients whose sessions go along, with a presence of now; sessions: others; within: seconds for the answer.
        """
        self._batch += 1
        number = self._batch
        gone = [Withdrawal(label=one.label, epoch=one.epoch) for one in withdrawn]
        await self.send(
            NodeMessage(
                announce=Announce(
                    batch=number,
                    bound=bound,
                    withdrawn=gone,
                    full=full,
                    sessions=[*sessions, *(one.session(self.info.name) for one in of)],
                )
            )
        )
        await self.until(lambda: any(message.announced.batch == number for message in self.heard), within=within)

    def _peers(self) -> Sequence[NodeInfo]:
        lists = [message.peers for message in self.heard if message.HasField("peers")]
        return lists[-1].nodes if lists else ()

    async def _hear(self) -> None:
        try:
            async for message in self._stream:
                self.heard.append(message)
                self._changed.set()
        except grpc.aio.AioRpcError as error:
            self._ended = StreamEnded(error.code(), error.details() or "")
        else:
            self._ended = StreamEnded(grpc.StatusCode.OK, "")
        self._changed.set()


@asynccontextmanager
async def kept_alive(*nodes: NodeStream) -> AsyncIterator[None]:
    """They live until the block ends: a registry lets a node go that says nothing for the time of its lease."""

    async def live(node: NodeStream) -> None:
        while True:
            await node.keep_alive()
            await asyncio.sleep(_ALIVE_EVERY)

    tasks = Tasks("living nodes")
    for node in nodes:
        tasks.spawn(live(node), name=f"keep {node.info.name} alive")
    try:
        yield
    finally:
        await tasks.close()


async def all_known(*nodes: NodeStream) -> None:
    """Wait until the replica of each of these nodes shows all of them: a replica shows a moment late what is in the
    store, where a node is once it is registered."""
    names = {node.info.name for node in nodes}
    for node in nodes:
        await node.until(lambda: names <= node.peers)


def stream(registry: Registry, pki: Pki, name: str = "fra-1", **more: Any) -> NodeStream:
    """The stream of a node that describes itself as usual."""
    return NodeStream(registry.mesh_address, pki, node_info(name), **more)
