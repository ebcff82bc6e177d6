"""One node's session: its stream, its lease, its record, its batches.

Here: what is done in which order for one node, and how an outage of the store is sat out. Not here: what one node's
news means to others (hub.py), what a batch does (announcements.py).
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from grpc import aio
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_QUOTA,
    Announce,
    Eviction,
    KeepAlive,
    NodeMessage,
    Probed,
    Registered,
    RegistryMessage,
    Withdrawal,
)
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, NodeInfo, TunnelInfo
from portway_runtime.tasks import Tasks

from portway_registry.errors import FellSilent, InvalidRequest, LeaseLost, Replaced, StoreUnavailable
from portway_registry.nodes.outbox import Outbox
from portway_registry.state import keys
from portway_registry.state.records import decode_node, is_ready
from portway_registry.state.views import Item
from portway_registry.store.contract import NO_LEASE, LeaseId, Store
from portway_registry.tunnels.announcements import Announcements

logger = logging.getLogger(__name__)

Write = Callable[[RegistryMessage], Awaitable[None]]

# Batches that wait for the store; the node is not read from while there are more.
_MOST_BATCHES: Final = 64
_PAUSE: Final = 1.0  # seconds, at most, between tries while the store is away; it has a time limit of its own


@dataclass(frozen=True, slots=True)
class _Removal:
    """A binding that the registry ends by itself; `tell`: the node still holds it, and is to drop it."""

    tunnel: Item[TunnelInfo]
    tell: bool


class NodeSession:
    """A node's stream, from its Register to its end.

    `info.started_at_ms` tells sessions of one node apart, on whichever replicas: the highest is the one that counts.
    """

    def __init__(
        self,
        store: Store,
        announcements: Announcements,
        info: NodeInfo,
        *,
        lease_seconds: int,
        now_ms: Callable[[], int],
        issued_ms: int = 0,
    ) -> None:
        """`issued_ms` is when the node's certificate was."""
        self.info = info
        self.issued_ms = issued_ms
        self.outbox = Outbox()
        self.over = asyncio.Event()
        self.serving = False  # the node hears what is said to it
        self.on_probed: Callable[[Probed], None] = lambda probed: None
        self._store = store
        self._announcements = announcements
        self._lease_seconds = lease_seconds
        self._now_ms = now_ms
        self._lease: LeaseId = NO_LEASE
        self._registering = asyncio.Lock()
        self._heard = asyncio.Event()
        self._heard_at = asyncio.get_running_loop().time()
        self._work: asyncio.Queue[Announce | _Removal] = asyncio.Queue()
        self._room = asyncio.Semaphore(_MOST_BATCHES)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def register(self, lease: int) -> None:
        """Make the node known, on the lease it had when that is still its own. Raises StoreUnavailable."""
        entry = await self._store.get(keys.node(self.info.name))
        if entry is not None:
            before = decode_node(entry.value).started_at_ms
            self.info.started_at_ms = max(self.info.started_at_ms, before + 1)
            if entry.lease == lease != NO_LEASE and await self._resumes(entry.lease):
                return
        await self._register_anew()

    async def serve(self, requests: AsyncIterable[NodeMessage], write: Write) -> None:
        """Talk to the node until one side is done. Raises what ended it, if that was not the node itself."""
        tasks = Tasks(f"session of {self.info.name}", on_failure=self._fail)
        self.serving = True
        try:
            tasks.spawn(self._tell(write), name="tell")
            tasks.spawn(self._listen(requests), name="listen")
            tasks.spawn(self._keep(), name="keep")
            tasks.spawn(self._announce(), name="announce")
            await self._ended
        finally:
            self.serving = False
            await tasks.close()
        if self.info.state == NODE_STATE_DRAINING:
            await self._forget()

    def end(self, error: Exception | None) -> None:
        """Make `serve` return, or raise `error`."""
        if not self._ended.done():
            if error is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(error)
                # Looked at, in case the session ends before anybody waits for it.
                self._ended.exception()

    def evict_for_quota(self, tunnel: Item[TunnelInfo]) -> None:
        """Take back a tunnel that two replicas admitted at once."""
        self._work.put_nowait(_Removal(tunnel, tell=True))

    def shown(self, tunnel: Item[TunnelInfo]) -> None:
        """The view shows a tunnel of this node: one that the node does not hold any more is removed."""
        if self._announcements.is_stale(tunnel):
            self._work.put_nowait(_Removal(tunnel, tell=False))

    def publish(self) -> None:
        """Something of `info` has changed: write it now, not at the next KeepAlive."""
        self._heard.set()

    def forgotten(self) -> None:
        """The store has lost the node's record: register anew now, not at the next KeepAlive.

        Unless it was the node's own silence that ended the lease.
        """
        if asyncio.get_running_loop().time() - self._heard_at < self._lease_seconds:
            self._heard.set()

    def _fail(self, error: BaseException) -> None:
        self.end(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    async def _tell(self, write: Write) -> None:
        while True:
            for message in await self.outbox.take():
                try:
                    await write(message)
                except aio.BaseError:  # the node has gone in the middle of it
                    self.end(None)
                    return

    async def _listen(self, requests: AsyncIterable[NodeMessage]) -> None:
        async for message in requests:
            kind = message.WhichOneof("message")
            if kind == "keep_alive":
                self._take_counts(message.keep_alive)
                self._heard_at = asyncio.get_running_loop().time()
                self._heard.set()
            elif kind == "announce":
                await self._room.acquire()
                self._work.put_nowait(message.announce)
            elif kind == "probed":
                self.on_probed(message.probed)
            elif kind == "register":
                self.end(InvalidRequest("a stream is one registration: open another stream to register again"))
                return
        self.end(None)

    def _take_counts(self, told: KeepAlive) -> None:
        self.info.sessions, self.info.tunnels, self.info.visits = told.sessions, told.tunnels, told.visits
        self.info.state = told.state or self.info.state

    async def _keep(self) -> None:
        """Refresh the lease each time the node is heard, and its record when it has changed notably.

        A node that hangs may still have a library that answers pings, so its stream alone does not keep it.
        """
        while True:
            try:
                async with asyncio.timeout(self._lease_seconds):
                    await self._heard.wait()
            except TimeoutError:
                self.end(FellSilent(f"no KeepAlive for {self._lease_seconds} s: register again"))
                return
            self._heard.clear()
            lease = self._lease
            try:
                await self._store.keep_lease(lease)
                await self._publish(lease)
            except StoreUnavailable as error:
                await self._pause("lease not refreshed", error)
                self._heard.set()
            except LeaseLost:
                await self._register_after(lease)

    async def _publish(self, lease: LeaseId) -> None:
        """Write the node's record if it is worth it. Raises LeaseLost when it is gone."""
        entry = await self._store.get(keys.node(self.info.name))
        if entry is None:
            raise LeaseLost("the node's record went with its lease")
        stored = decode_node(entry.value)
        if stored.started_at_ms > self.info.started_at_ms:
            self.end(Replaced("a newer session of this node has registered"))
        elif is_notable(stored, self.info):
            value = self.info.SerializeToString()
            await self._store.put(entry.key, value, expected=entry.modified, lease=lease)

    async def _announce(self) -> None:
        while True:
            work = await self._work.get()
            if isinstance(work, Announce):
                await self._until_done(work)
                self._room.release()
                continue
            tunnel = work.tunnel
            gone = Withdrawal(label=tunnel.name, epoch=tunnel.value.epoch)
            await self._until_done(Announce(withdrawn=[gone]), internal=True)
            if work.tell:
                eviction = Eviction(label=tunnel.name, epoch=tunnel.value.epoch, reason=EVICTION_REASON_QUOTA)
                self.outbox.evict([eviction])

    async def _until_done(self, batch: Announce, *, internal: bool = False) -> None:
        """Apply a batch, however long the store is away; the node is told once the store has it."""
        while True:
            lease = self._lease
            try:
                evictions = await self._announcements.apply(batch, lease)
            except StoreUnavailable as error:
                await self._pause("batch not written", error)
            except LeaseLost:
                await self._register_after(lease)
            else:
                self.outbox.evict(evictions)
                if not internal:
                    self.outbox.announced(batch.batch)
                return

    async def _register_after(self, lost: LeaseId) -> None:
        """A new lease in place of `lost`, once; the node then announces everything again."""
        async with self._registering:
            while self._lease == lost:
                try:
                    await self._register_anew()
                except StoreUnavailable as error:
                    await self._pause("node not registered again", error)
                except LeaseLost:
                    continue

    async def _register_anew(self) -> None:
        lease = await self._store.grant_lease(self._lease_seconds)
        await self._store.put(keys.node(self.info.name), self.info.SerializeToString(), lease=lease)
        self._registered(lease)

    async def _resumes(self, lease: LeaseId) -> bool:
        try:
            await self._store.keep_lease(lease)
            await self._store.put(keys.node(self.info.name), self.info.SerializeToString(), lease=lease)
        except LeaseLost:
            return False
        self._registered(lease)
        return True

    def _registered(self, lease: LeaseId) -> None:
        self._lease = lease
        registered = Registered(lease_id=lease, lease_seconds=self._lease_seconds, registry_time_ms=self._now_ms())
        self.outbox.registered(registered)
        logger.info("node registered", extra={"node": self.info.name, "region": self.info.region})

    async def _forget(self) -> None:
        """A node that drained and left is not waited for."""
        try:
            await self._store.revoke_lease(self._lease)
        except StoreUnavailable as error:
            logger.warning("node not removed, its lease will run out", extra={"reason": str(error)})

    async def _pause(self, what: str, error: StoreUnavailable) -> None:
        logger.warning(what, extra={"node": self.info.name, "reason": str(error)})
        await asyncio.sleep(random.uniform(_PAUSE / 2, _PAUSE))  # noqa: S311 - spreads load


def is_notable(stored: NodeInfo, now: NodeInfo) -> bool:
    """Whether what has changed is worth a write: state, reach, whether it takes clients, or a count by over a tenth.

    Without the third a node could fill up from nine tenths on and be offered to clients that it refuses.
    """
    if (stored.state, stored.reach, stored.reach_failure) != (now.state, now.reach, now.reach_failure):
        return True
    if _is_full(stored) != _is_full(now) and is_ready(now):
        return True
    counts = ((stored.sessions, now.sessions), (stored.tunnels, now.tunnels), (stored.visits, now.visits))
    return any(abs(after - before) > before // 10 for before, after in counts)


def _is_full(node: NodeInfo) -> bool:
    """Whether a node that is ready takes no clients all the same."""
    return 0 < node.max_sessions <= node.sessions
