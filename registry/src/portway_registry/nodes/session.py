"""One node's session: its stream, its lease, its record, its announcements.

Here: what is done for one node in which order, and what waits during an outage of the store. Not here: what one node's
changes mean to other nodes, how announcements are applied.
"""

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from grpc import aio
from portway_proto.records import authority_ids, certificate_end, key_ids, zone_names
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_INVALID,
    Announce,
    Eviction,
    KeepAlive,
    NodeMessage,
    Probed,
    Registered,
    RegistryMessage,
    Withdrawal,
)
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, NodeInfo, NodeState, TunnelInfo
from portway_runtime.backoff import jittered
from portway_runtime.tasks import Tasks, fail

from portway_registry.errors import (
    CertificateSuperseded,
    FellSilent,
    InvalidRequest,
    LeaseLost,
    NodeRemoved,
    Replaced,
    StoreUnavailable,
)
from portway_registry.nodes.node_changes import clock_ahead, is_notable
from portway_registry.nodes.outbox import Outbox
from portway_registry.nodes.token_check import checked_ids
from portway_registry.nodes.work_queue import Batch, Removal, WorkQueue
from portway_registry.state import keys
from portway_registry.state.records import decode_node
from portway_registry.state.views import Item
from portway_registry.store.contract import NO_LEASE, LeaseId, Store
from portway_registry.tunnels.announcements import Announcements, checked
from portway_registry.tunnels.quota import Limit

logger = logging.getLogger(__name__)

T = TypeVar("T")
Write = Callable[[RegistryMessage], Awaitable[None]]

# Tokens that a node may name in a stream: several times its sessions.
_MOST_TOKENS: Final = 100_000
_PAUSE: Final = 1.0  # seconds at most between tries during an outage of the store, which has a time limit of its own


class NodeSession:
    """A node's stream, from its Register to its end.

    `info.started_at_ms` orders the sessions of one node at all replicas: the highest is the current one.
    """

    def __init__(
        self,
        store: Store,
        announcements: Announcements,
        info: NodeInfo,
        *,
        lease_seconds: int,
        now_ms: Callable[[], int],
        issued_ms: int,
        certificate: bytes,
        still_current: Callable[[], Awaitable[None]],
        on_probed: Callable[[Probed], None],
        on_dns: Callable[[], None],
        invalid_tokens: Callable[[Sequence[str]], Awaitable[list[str]]],
    ) -> None:
        """
        issued_ms: when the node's certificate was issued. certificate: PEM, of its connection.
        still_current: raises NodeRemoved or CertificateSuperseded when the store says that the node is out, and
        StoreUnavailable. Called before the node gets a new lease in mid-stream.
        on_probed: called with each answer to a probe. on_dns: called when the node begins or ends to answer DNS.
        invalid_tokens: returns those of the given tokens that are not valid. Raises StoreUnavailable.
        """
        self.info = info
        self.issued_ms = issued_ms
        self.certificate = certificate
        self.outbox = Outbox()
        self.over = asyncio.Event()  # set when nothing more is done for this session
        self.serving = False  # messages in the outbox are sent
        self.reach_details = ""  # of the last dial that did not reach the node, for this registry's log
        self._still_current = still_current
        self._on_probed = on_probed
        self._on_dns = on_dns
        self._invalid_tokens = invalid_tokens
        self._store = store
        self._announcements = announcements
        self._lease_seconds = lease_seconds
        self._now_ms = now_ms
        self._lease: LeaseId = NO_LEASE
        self._is_incomplete = False  # the store lacks tunnels that the node has announced
        self._registering = asyncio.Lock()
        self._heard = asyncio.Event()
        self._heard_at = asyncio.get_running_loop().time()
        self._work = WorkQueue()
        self._tokens_held = 0  # that the node has named
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def register(self, lease: int) -> None:
        """Write the node's record, on the lease `lease` if the store has the record on it, else on a new lease.

        Raises StoreUnavailable.
        """
        entry = await self._store.get(keys.node(self.info.name))
        if entry is not None:
            before = decode_node(entry.value).started_at_ms
            self.info.started_at_ms = max(self.info.started_at_ms, before + 1)
            if entry.lease == lease != NO_LEASE and await self._resumes(entry.lease):
                return
        await self._register_on_new_lease()

    async def serve(self, requests: AsyncIterable[NodeMessage], write: Write) -> None:
        """Read and write the stream until the session ends. Raises what ended it; returns when the node itself did.

        A node that was draining is removed from the store then; any other stays until its lease ends.
        """
        tasks = Tasks(f"session of {self.info.name}", on_failure=self._fail)
        self.serving = True
        try:
            tasks.spawn(self._send(write), name="send")
            tasks.spawn(self._receive(requests), name="receive")
            tasks.spawn(self._keep_lease(), name="keep lease")
            tasks.spawn(self._apply_announcements(), name="apply announcements")
            await self._ended
        finally:
            self.serving = False
            await tasks.close()
        if self.info.state == NODE_STATE_DRAINING:
            await self._deregister()

    def end(self, error: Exception | None) -> None:
        """Make `serve` return, or raise `error`. Only the first call counts."""
        if not self._ended.done():
            if error is None:
                self._ended.set_result(None)
            else:
                fail(self._ended, error)

    def evict_for_quota(self, tunnel: Item[TunnelInfo], over: Limit) -> None:
        """Withdraw a tunnel and evict it from the node; nothing when that is being done."""
        self._work.add_removal_for_quota(tunnel, over.eviction(tunnel.value))

    @property
    def is_idle(self) -> bool:
        """Whether everything that the node announced so far was applied."""
        return self._work.is_idle

    def remove_unplaced(self, tunnel: Item[TunnelInfo]) -> None:
        """Withdraw a tunnel that nothing places any more, and evict it from the node."""
        eviction = Eviction(label=tunnel.name, epoch=tunnel.value.epoch, reason=EVICTION_REASON_INVALID)
        self._work.add_removal(tunnel, eviction)

    def tunnel_seen(self, tunnel: Item[TunnelInfo]) -> None:
        """The view shows a tunnel of this node; one that the node no longer holds is withdrawn."""
        if self._announcements.is_stale(tunnel):
            self._work.add_removal(tunnel)

    def tunnel_deleted(self, tunnel: Item[TunnelInfo]) -> None:
        """The view shows a tunnel of this node no more. If the node still holds it, it is to announce all again. What
        went with an earlier lease the node announced after it got this one."""
        if tunnel.lease == self._lease and self._announcements.is_missing(tunnel):
            self._is_incomplete = True
            self.record_lost()

    def publish(self) -> None:
        """Write `info` to the store now, not at the next KeepAlive."""
        self._heard.set()

    def record_lost(self) -> None:
        """The node's record was deleted: register again now, not at the next KeepAlive, unless the lease ended because
        the node was silent."""
        if asyncio.get_running_loop().time() - self._heard_at < self._lease_seconds:
            self._heard.set()

    def _fail(self, error: BaseException) -> None:
        self.end(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    async def _send(self, write: Write) -> None:
        while True:
            for message in await self.outbox.take():
                try:
                    await write(message)
                except aio.BaseError:  # the node has gone meanwhile
                    self.end(None)
                    return

    async def _receive(self, requests: AsyncIterable[NodeMessage]) -> None:
        try:
            await self._take_messages(requests)
        except InvalidRequest as error:
            self.end(error)

    async def _take_messages(self, requests: AsyncIterable[NodeMessage]) -> None:
        async for message in requests:
            kind = message.WhichOneof("message")
            if kind == "keep_alive":
                self._update_counts(message.keep_alive)
                self._heard_at = asyncio.get_running_loop().time()
                self._heard.set()
            elif kind == "announce":
                await self._work.add_batch(message.announce)
            elif kind == "tokens_held":
                self._tokens_held += len(message.tokens_held.token_ids)
                if self._tokens_held > _MOST_TOKENS:
                    raise InvalidRequest(f"one stream names at most {_MOST_TOKENS} tokens")
                self._work.add_tokens(checked_ids(message.tokens_held.token_ids))
            elif kind == "dns_held":
                self.info.dns_version = message.dns_held.version
                self._heard.set()
            elif kind == "probed":
                self._on_probed(message.probed)
            elif kind == "register":
                self.end(InvalidRequest("a stream is one registration: open another stream to register again"))
                return
        self.end(None)

    def _update_counts(self, message: KeepAlive) -> None:
        self.info.sessions, self.info.tunnels, self.info.visits = message.sessions, message.tunnels, message.visits
        self.info.certificate_end_s = certificate_end(message.certificate_end_s)
        self.info.lacking_regions = message.lacking_regions
        self.info.grant_keys[:] = key_ids(message.grant_keys)
        self.info.clock_ahead_s = clock_ahead(message.time_ms, self._now_ms())
        self.info.authorities[:] = authority_ids(message.authorities)
        self.info.certificate_authority = "".join(authority_ids([message.certificate_authority]))
        self.info.unaware_clients = message.unaware_clients
        self.info.zones[:] = zone_names(message.zones)
        if message.dns != self.info.dns:
            self.info.dns = message.dns
            self._on_dns()
        if message.state in NodeState.values():
            self.info.state = message.state or self.info.state

    async def _keep_lease(self) -> None:
        """Refresh the lease at each KeepAlive, and write the record when it has changed notably.

        An open stream alone does not keep the lease: gRPC answers pings also in a node that hangs.
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
                if self._is_incomplete:
                    self._registered(lease)
            except StoreUnavailable as error:
                await self._pause("lease not refreshed", error)
                self._heard.set()
            except LeaseLost:
                await self._register_after(lease)

    async def _publish(self, lease: LeaseId) -> None:
        """Write the node's record if it changed notably. Raises LeaseLost when the store has it no more."""
        entry = await self._store.get(keys.node(self.info.name))
        if entry is None:
            raise LeaseLost("the node's record was deleted with its lease")
        stored = decode_node(entry.value)
        if stored.started_at_ms > self.info.started_at_ms:
            self.end(Replaced("a newer session of this node has registered"))
        elif is_notable(stored, self.info):
            value = self.info.SerializeToString()
            await self._store.put(entry.key, value, expected=entry.modified, lease=lease)

    async def _apply_announcements(self) -> None:
        while True:
            work = await self._work.take()
            if isinstance(work, Batch):
                try:
                    batch = await checked(work.announce)
                except InvalidRequest as error:
                    self.end(error)
                    return
                await self._apply(batch)
                self._work.batch_done(work)
            elif isinstance(work, list):
                invalid = await self._until_answered("tokens not looked up", partial(self._invalid_tokens, work))
                self.outbox.revoke(invalid)
            else:
                await self._remove(work)

    async def _apply(self, batch: Announce) -> None:
        """Apply a batch, trying until the store answers; then acknowledge it."""
        await self.outbox.room()
        while True:
            lease = self._lease
            try:
                evictions = await self._until_answered(
                    "batch not written", partial(self._announcements.apply, batch, lease)
                )
            except LeaseLost:
                await self._register_after(lease)
            else:
                self.outbox.evict(evictions)
                self.outbox.announced(batch.batch)
                return

    async def _remove(self, removal: Removal) -> None:
        """Remove a binding, trying until the store answers, and tell the node if it holds it."""
        await self.outbox.room()
        tunnel = removal.tunnel
        gone = Withdrawal(label=tunnel.name, epoch=tunnel.value.epoch)
        await self._until_answered("tunnel not removed", partial(self._announcements.withdraw, [gone]))
        self._work.removed(removal)
        if removal.eviction is not None:
            self.outbox.evict([removal.eviction])

    async def _until_answered(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of `attempt`, which is tried until the store answers. `what` is logged of each try that failed."""
        while True:
            try:
                return await attempt()
            except StoreUnavailable as error:
                await self._pause(what, error)

    async def _register_after(self, lost: LeaseId) -> None:
        """Replace the lease `lost` by a new one, once; the node then announces everything again.

        A node whose lease ended because it was removed gets none; this replica may hear of its removal only later.
        """
        async with self._registering:
            while self._lease == lost:
                try:
                    await self._still_current()
                    await self._register_on_new_lease()
                except (NodeRemoved, CertificateSuperseded) as error:
                    self.end(error)
                    return
                except StoreUnavailable as error:
                    await self._pause("node not registered again", error)
                except LeaseLost:
                    continue

    async def _register_on_new_lease(self) -> None:
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
        """The node announces all of its tunnels when it reads this."""
        self._lease = lease
        self._is_incomplete = False
        registered = Registered(lease_id=lease, lease_seconds=self._lease_seconds, registry_time_ms=self._now_ms())
        self.outbox.registered(registered)
        logger.info("node registered", extra={"node": self.info.name, "region": self.info.region})

    async def _deregister(self) -> None:
        """Remove a node that drained and left; its lease need not run out first."""
        try:
            await self._store.revoke_lease(self._lease)
        except StoreUnavailable as error:
            logger.warning("node not removed, its lease will run out", extra={"reason": str(error)})

    async def _pause(self, what: str, error: StoreUnavailable) -> None:
        logger.warning(what, extra={"node": self.info.name, "reason": str(error)})
        await asyncio.sleep(jittered(_PAUSE))
