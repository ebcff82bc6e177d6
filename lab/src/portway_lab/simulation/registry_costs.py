"""What one event costs the registry, measured on its own code: a hub, its views, and a store that counts.

Here: the events (a node registers, sends KeepAlive, announces, renews a presence, loses its lease), the work of the
store and the bytes to and from the node for each. Not here: how often each happens (registry_load.py).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from portway_proto.v1.mesh_pb2 import (
    Announce,
    AnnouncedSession,
    KeepAlive,
    NodeMessage,
    Peers,
    Register,
    RegistryMessage,
    Withdrawal,
)
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeInfo, TunnelInfo
from portway_proto.wire.statements import Claim, SigningKey, cluster_tag, sign_claim, sign_presence
from portway_registry.access.grant_keys import make_first_key
from portway_registry.access.grants import Grants
from portway_registry.config import Config
from portway_registry.dns.board import DnsBoard
from portway_registry.nodes.hub import Hub
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.signing import Signer
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import Role, TokenRecord, encode
from portway_registry.state.store_reach import StoreReach
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.state.views import Views
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.etcd.messages import WRITES_PER_TRANSACTION
from portway_registry.tunnels.quota import Quota

from portway_lab.simulation.counting_store import CountingStore, Work

_TOKEN: Final = TokenRecord("simulated", "simulated-tenant", Role.CLIENT, b"")
_CLUSTER: Final = "simulated"
_PATIENCE: Final = 20.0  # seconds; everything here takes milliseconds


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one event: work of the store for all replicas together, but events for each; messages in bytes without
    framing."""

    store: Work
    received_bytes: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Costs:
    """By event. `bind` and `move` are of one tunnel, with the presence that its session signs for it. `bind_many` is
    one batch of as many tunnels as one transaction takes."""

    register: Cost
    keep_alive: Cost
    keep_alive_notable: Cost
    bind: Cost
    bind_many: Cost
    withdraw: Cost
    renew: Cost  # a session's presence
    move: Cost  # bound at another node while the record of the first node is still there
    lease_end: Cost  # of a node with one tunnel: two keys
    grant_bytes: int


def measure_costs(infos: tuple[NodeInfo, NodeInfo]) -> Costs:
    """Takes a fraction of a second. `infos` are two nodes as they register."""
    return asyncio.run(_measure(infos))


def peers_bytes(infos: list[NodeInfo]) -> int:
    """The size of the list of nodes that each node gets when one comes or goes."""
    return RegistryMessage(peers=Peers(nodes=infos)).ByteSize()


class _Changes:
    """Wakes the task that waits for a condition on counts or messages."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class _Stream:
    """A node's end of its session."""

    def __init__(self, hub: Hub, info: NodeInfo, changes: _Changes) -> None:
        self._requests: asyncio.Queue[NodeMessage] = asyncio.Queue()
        self._changes = changes
        self.received_bytes = 0
        self.messages: list[RegistryMessage] = []
        self.register = Register(node=info)
        self.task = asyncio.ensure_future(hub.serve(self.register, self._say(), self._take))

    def send(self, message: NodeMessage) -> None:
        self.received_bytes += message.ByteSize()
        self._requests.put_nowait(message)

    def announced(self, batch: int) -> bool:
        return any(message.announced.batch == batch for message in self.messages if message.HasField("announced"))

    @property
    def sent_bytes(self) -> int:
        return sum(message.ByteSize() for message in self.messages)

    async def _say(self) -> AsyncIterator[NodeMessage]:
        while True:
            yield await self._requests.get()

    async def _take(self, message: RegistryMessage) -> None:
        self.messages.append(message)
        self._changes.notify()


async def _measure(infos: tuple[NodeInfo, NodeInfo]) -> Costs:
    changes = _Changes()
    failures: list[BaseException] = []
    memory = EmbeddedStore(None, on_failure=failures.append)
    store = CountingStore(memory, changes.notify)
    views = Views(store, on_failure=failures.append)
    await make_first_key(store, now_ms=1)
    await store.put(keys.token(_TOKEN.id), encode(_TOKEN))
    await views.start()
    signer = Signer.create()
    limits = TunnelLimits(views.tokens, views.tenants, default=10_000)
    grants = Grants(_CLUSTER, views.grant_keys, limits, _now_ms)
    hub = Hub(
        store,
        views,
        grants,
        Quota(limits, views.tunnels),
        Audit(store, _now_ms),
        _now_ms,
        cluster_id=_CLUSTER,
        authority=ClusterAuthority(signer.pem, signer),
        dns=DnsBoard(views, domain=None, registry_name=""),
        reach=StoreReach(store, on_failure=failures.append),
        lease_seconds=Config().lease_seconds,
        on_failure=failures.append,
    )
    hub.start()
    try:
        return await _Measurement(store, views, hub, changes, grants).run(infos)
    finally:
        await hub.close()
        await views.close()
        await memory.close()
        if failures:
            raise failures[0]


@dataclass(slots=True)
class _Measurement:
    store: CountingStore
    views: Views
    hub: Hub
    changes: _Changes
    grants: Grants
    batch: int = 0

    async def run(self, infos: tuple[NodeInfo, NodeInfo]) -> Costs:
        key, client = SigningKey(), _Client(self.grants)
        async with self._node(infos[0]) as (node, register), self._node(infos[1]) as (other, _):
            quiet = await self._keep_alive(node, 0)
            notable = await self._keep_alive(node, 10)
            bind = await self._announce(node, client.bind(infos[0], 1, key))
            renew = await self._announce(node, Announce(sessions=[client.session(infos[0])]))
            moved = client.bind(infos[1], 2, key)
            move = await self._announce(other, moved)
            withdrawn = [Withdrawal(label=moved.bound[0].label, epoch=2)]
            gone = await self._announce(other, Announce(withdrawn=withdrawn))
            many = _Client(self.grants).bind(infos[0], 1, *(SigningKey() for _ in range(WRITES_PER_TRANSACTION)))
            bind_many = await self._announce(node, many)
            await self._announce(other, client.bind(infos[1], 1, SigningKey()))
            lease_end = await self._end_lease(infos[1].name, other)
        return Costs(
            register,
            quiet,
            notable,
            bind,
            bind_many,
            gone,
            renew,
            move,
            lease_end,
            self.grants.sign(_TOKEN, key.public).ByteSize(),
        )

    @asynccontextmanager
    async def _node(self, info: NodeInfo) -> AsyncIterator[tuple[_Stream, Cost]]:
        before = self.store.work.copy()
        stream = _Stream(self.hub, info, self.changes)
        try:
            await self.changes.until(lambda: any(one.HasField("order") for one in stream.messages))
            await self.changes.until(lambda: info.name in self.views.nodes.items)
            spent = Cost(self.store.work.since(before), stream.register.ByteSize(), stream.sent_bytes)
            yield stream, spent
        finally:
            stream.task.cancel()
            await asyncio.wait([stream.task])

    async def _keep_alive(self, stream: _Stream, sessions: int) -> Cost:
        """A KeepAlive with this number of sessions; it is written if the number differs from the record's."""
        before, heard = self.store.work.copy(), stream.received_bytes
        name = stream.register.node.name
        known = self.views.nodes.items[name].value.sessions
        stream.send(NodeMessage(keep_alive=KeepAlive(sessions=sessions, state=NODE_STATE_READY)))
        await self.changes.until(lambda: self.store.work.reads > before.reads)
        if sessions != known:
            await self.changes.until(lambda: self.views.nodes.items[name].value.sessions == sessions)
        return Cost(self.store.work.since(before), stream.received_bytes - heard)

    async def _announce(self, stream: _Stream, announce: Announce) -> Cost:
        self.batch += 1
        announce.batch = self.batch
        before, received, sent = self.store.work.copy(), stream.received_bytes, stream.sent_bytes
        stream.send(NodeMessage(announce=announce))
        await self.changes.until(lambda: stream.announced(announce.batch))
        changed = len(announce.bound) + len(announce.withdrawn) + len(announce.sessions)
        await self.changes.until(lambda: self.store.work.events - before.events >= changed)
        return Cost(self.store.work.since(before), stream.received_bytes - received, stream.sent_bytes - sent)

    async def _end_lease(self, name: str, stream: _Stream) -> Cost:
        """The end of a lease after its node's stream has ended; etcd ends it without a call, so none is counted."""
        stream.task.cancel()
        await asyncio.wait([stream.task])
        lease = self.views.nodes.items[name].lease
        before = self.store.work.copy()
        await self.store.revoke_lease(lease)
        await self.changes.until(lambda: name not in self.views.nodes.items)
        await self.changes.until(lambda: self.store.work.events - before.events >= 2)
        spent = self.store.work.since(before)
        spent.lease_calls = 0
        return Cost(spent)


class _Client:
    """A client's session as its node announces it."""

    def __init__(self, grants: Grants) -> None:
        self._key = SigningKey()
        self._grant = grants.sign(_TOKEN, self._key.public).token
        self._cluster = cluster_tag(_CLUSTER)
        self._claims: list[Claim] = []
        self._last_ms = 0

    def bind(self, info: NodeInfo, epoch: int, *keys: SigningKey) -> Announce:
        """Tunnels at a node, of these keys, with the session."""
        self._claims = [
            sign_claim(key, self._cluster, epoch=epoch, session_key=self._key.public, node=info.name) for key in keys
        ]
        return Announce(bound=[_tunnel(claim, info) for claim in self._claims], sessions=[self.session(info)])

    def session(self, info: NodeInfo) -> AnnouncedSession:
        """Its grant and a new presence."""
        self._last_ms = max(self._last_ms + 1, _now_ms())
        ids = frozenset(claim.id for claim in self._claims)
        presence = sign_presence(self._key, self._cluster, time_ms=self._last_ms, node=info.name, ids=ids)
        return AnnouncedSession(grant=self._grant, presence=presence.encoded)


def _tunnel(claim: Claim, info: NodeInfo) -> TunnelInfo:
    """A tunnel as a node announces it."""
    return TunnelInfo(
        label=claim.label,
        node=info.name,
        region=info.region,
        epoch=claim.epoch,
        claim=claim.encoded,
        opened_at_ms=_now_ms(),
        host=f"{claim.label}.{info.region}.{info.domain.lstrip('.')}",
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
