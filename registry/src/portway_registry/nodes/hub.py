"""The hub: all node sessions of this replica, and what each change in the cluster means for them.

Here: which sessions get revocations, keys, peers and evictions, at whichever replica they were made. Not here: what a
session does by itself.
"""

import asyncio
import logging
from collections.abc import AsyncIterable, Callable, Iterable
from functools import partial
from typing import Final

from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_SUPERSEDED,
    CertifiedSince,
    ClusterSettings,
    Eviction,
    NodeMessage,
    Peers,
    Register,
)
from portway_proto.v1.mesh_pb2 import Order as OrderMessage
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeInfo, TunnelInfo
from portway_proto.wire.statements import cluster_tag
from portway_runtime.tasks import Tasks

from portway_registry.access.grants import HONOURED_MS, Grants
from portway_registry.acme.held import HeldCertificates
from portway_registry.dns.board import DnsBoard
from portway_registry.errors import CertificateSuperseded, CertificateUntrusted, NodeRemoved, Replaced
from portway_registry.nodes.certificates import demand_current, note_registration, require_current
from portway_registry.nodes.front_key import FrontKey
from portway_registry.nodes.node_changes import clock_ahead, without_counts
from portway_registry.nodes.peer_lists import in_parts
from portway_registry.nodes.port_owners import RegionPorts
from portway_registry.nodes.reachability import Dial, Prober
from portway_registry.nodes.registry_fronts import FrontLists
from portway_registry.nodes.session import NodeSession, Write
from portway_registry.nodes.token_check import invalid_tokens
from portway_registry.nodes.unplaced import UnplacedTunnels
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.state.audit import Audit
from portway_registry.state.gathered_changes import GatheredChanges
from portway_registry.state.grant_reader import GrantReader
from portway_registry.state.records import (
    STATE_OF_ORDER,
    GrantKeyRecord,
    IdentityRecord,
    Order,
    OrderRecord,
    TenantRecord,
    TokenRecord,
)
from portway_registry.state.store_reach import StoreReach
from portway_registry.state.views import Item, Views
from portway_registry.store.contract import Store
from portway_registry.tunnels.announcements import Announcements
from portway_registry.tunnels.presences import Presences
from portway_registry.tunnels.quota import Quota
from portway_registry.tunnels.sessions import SessionRules
from portway_registry.tunnels.statement_checks import StatementChecks

logger = logging.getLogger(__name__)

# Seconds that changes of peers are gathered: nodes that come and go together make one list of peers, not one each.
PEERS_GATHERED: Final = 0.1
# The same for DNS records: a certificate authority is told to look when all name servers have them.
_DNS_GATHERED: Final = 0.02


class Hub:
    """The sessions of this replica; at most one per node."""

    def __init__(
        self,
        store: Store,
        views: Views,
        grants: Grants,
        quota: Quota,
        audit: Audit,
        now_ms: Callable[[], int],
        *,
        cluster_id: str,
        authority: ClusterAuthority,
        lease_seconds: int,
        on_failure: Callable[[BaseException], None],
        dial: Dial | None = None,
        dns: DnsBoard,
        reach: StoreReach,
        registry_name: str = "",
        certificates: HeldCertificates | None = None,
    ) -> None:
        """lease_seconds: from a node's last KeepAlive until it is dropped. Without `dial` addresses are not checked,
        and all nodes count as reached. registry_name: what connections that nodes pass on to the registry are for.
        certificates: handed to nodes, None when none are obtained."""
        self._store = store
        self._views = views
        self._grants = grants
        self._now_ms = now_ms
        self._cluster_id = cluster_id
        self._authority = authority
        self._lease_seconds = lease_seconds
        self._quota = quota
        self._certificates = certificates
        self._reach = reach
        self._sessions: dict[str, NodeSession] = {}
        self._prober = Prober(self._sessions, dial)
        self._dns = dns
        self._dns_changes = GatheredChanges(_DNS_GATHERED)
        self._ports = RegionPorts(views.port_blocks, self._sessions)
        self.front_key = FrontKey(store, views, audit, now_ms)
        self._fronts = FrontLists(views, self.front_key, self._sessions, registry_name)
        self._unplaced = UnplacedTunnels(views, self._sessions, now_ms)
        self._checks = StatementChecks()
        self._rules = SessionRules(
            cluster_tag(cluster_id),
            GrantReader(cluster_id, views.grant_keys, now_ms),
            views.tokens,
            Presences(store, views.presences, now_ms),
            now_ms,
        )
        self._tasks = Tasks("node sessions", on_failure=on_failure)
        self._listed: dict[str, NodeInfo] = {}  # every node as other nodes are to know it
        self._peers_changes = GatheredChanges(PEERS_GATHERED)
        self._unsubscribe: list[Callable[[], None]] = []
        # Each is called with a node's name when its stream has ended and no newer one is here.
        self.on_end: list[Callable[[str], None]] = []

    def start(self) -> None:
        """Follow the views, which must be filled already."""
        self._listed = {node.name: without_counts(node) for node in self._views.nodes.values()}
        self._unsubscribe = [
            self._views.nodes.subscribe(self._node_changed),
            self._views.tunnels.subscribe(self._tunnel_changed),
            self._views.tokens.subscribe(self._token_changed),
            self._views.tenants.subscribe(self._tenant_changed),
            self._views.grant_keys.subscribe(self._key_changed),
            self._views.orders.subscribe(self._order_changed),
            self._views.identities.subscribe(self._identity_changed),
            self._views.port_blocks.subscribe(self._ports.block_changed),
            self._views.dns.subscribe(self._dns_changes.notice),
            self._views.replicas.subscribe(self._fronts.replica_changed),
            self._views.front_key.subscribe(self._fronts.key_changed),
            self._views.identities.subscribe(self._fronts.identity_changed),
            self._authority.subscribe(self._authorities_changed),
            self._reach.subscribe(self._send_reach),
        ]
        if self._certificates is not None:
            self._unsubscribe.append(self._certificates.subscribe(self._send_certificates))
        self._tasks.spawn(self._send_peers(), name="send peers")
        self._tasks.spawn(self._ports.send_changes(), name="send owners of ports")
        self._tasks.spawn(self._send_dns_records(), name="send DNS records")
        self._tasks.spawn(self._fronts.send_changes(), name="send registries' ports")
        self._tasks.spawn(self.front_key.run(), name="rotate the key of PROXY headers")
        self._tasks.spawn(self._unplaced.run(), name="remove unplaced tunnels")
        self._tasks.spawn(self._rules.presences.keep_swept(), name="sweep presences")

    async def close(self) -> None:
        """Stop following the views. Sessions are ended by the server that runs them."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        await self._tasks.close()
        self._checks.close()

    @property
    def sessions(self) -> int:
        """The number of nodes with a stream here."""
        return len(self._sessions)

    def has(self, node: str) -> bool:
        """Whether the node's stream is here."""
        return node in self._sessions

    def region_of(self, node: str) -> str | None:
        """The region of a node whose stream is here; None for any other."""
        session = self._sessions.get(node)
        return None if session is None else session.info.region

    async def serve(
        self,
        register: Register,
        requests: AsyncIterable[NodeMessage],
        write: Write,
        *,
        issued_ms: int = 0,
        certificate: bytes = b"",
    ) -> None:
        """Run a node's session to its end, ending an older session of that node first.

        register: checked already. issued_ms: when the node's certificate was issued, in milliseconds. certificate: the
        one that the connection was opened with, PEM. Raises what ended the session, NodeRemoved, CertificateSuperseded
        and CertificateUntrusted among others; returns when the node itself did.
        """
        if self._authority.refuses(certificate):
            raise CertificateUntrusted(register.node.name)
        require_current(self._views, register.node.name, issued_ms)
        info = NodeInfo()
        info.CopyFrom(register.node)
        info.started_at_ms = self._now_ms()
        info.state = info.state or NODE_STATE_READY
        info.clock_ahead_s = clock_ahead(register.time_ms, info.started_at_ms)
        info.dns_version = 0
        still_current = partial(demand_current, self._store, info.name, issued_ms)
        session = NodeSession(
            self._store,
            self._announcements(info),
            info,
            lease_seconds=self._lease_seconds,
            now_ms=self._now_ms,
            issued_ms=issued_ms,
            certificate=certificate,
            still_current=still_current,
            on_probed=partial(self._prober.answered, info.name),
            on_dns=self._dns_changes.notice,
            invalid_tokens=partial(invalid_tokens, self._views.tokens),
        )
        before = self._sessions.get(info.name)
        probing: asyncio.Task[None] | None = None
        self._sessions[info.name] = session
        try:
            if before is not None:
                before.end(Replaced("a newer session of this node has registered"))
                await before.over.wait()
            await self._prober.probe_first(session, self._views.nodes.get(info.name))
            await still_current()
            await note_registration(self._store, self._views, info.name, self._now_ms())
            await session.register(register.lease_id)
            probing = self._tasks.spawn(self._prober.probe_until_reached(session), name=f"reach {info.name}")
            session.outbox.settings(self._settings())
            session.outbox.revoke(self._recent_revocations())
            session.outbox.peers(self._peers())
            session.outbox.port_owners(self._ports.owners(info.region))
            if info.dns:
                session.outbox.dns_records(self._dns.messages())
            session.outbox.registry_fronts(self._fronts.fronts(info.name))
            if self._certificates is not None:
                session.outbox.zone_certificates(self._certificates.for_nodes())
            if self._reach.away:
                session.outbox.store_reach(away=True)
            session.outbox.order(_order_message(self._views.orders.get(info.name)))
            # What was over a quota while the node had no session is over it still.
            for tenant, token in {(one.value.tenant, one.value.token_id) for one in self._held_by(info.name)}:
                self._evict_excess(tenant, token)
            await session.serve(requests, write)
        finally:
            if probing is not None:
                probing.cancel()
            session.over.set()
            if self._sessions.get(info.name) is session:
                del self._sessions[info.name]
                for ended in self.on_end:
                    ended(info.name)
            logger.info("node's session ended", extra={"node": info.name})

    def _held_by(self, node: str) -> Iterable[Item[TunnelInfo]]:
        return self._views.tunnels.of_node(node).values()

    def _announcements(self, info: NodeInfo) -> Announcements:
        return Announcements(
            self._store,
            self._views.tunnels,
            self._quota,
            self._rules,
            self._checks.of_node(),
            self._now_ms,
            node=info.name,
            region=info.region,
        )

    def _settings(self) -> ClusterSettings:
        return ClusterSettings(
            cluster_id=self._cluster_id,
            grant_keys=self._grants.public_keys(),
            cluster_ca=self._authority.certificate,
            issuer=self._authority.issuer_id if self._authority.signer is not None else "",
        )

    def _peers(self) -> tuple[Peers, ...]:
        """The list that every node gets."""
        removed = sorted(one.node for one in self._views.orders.values() if one.order is Order.REMOVE)
        nodes = (node for node in self._listed.values() if node.name not in removed)
        since = (
            CertifiedSince(node=one.node, issued_ms=one.joined_at_ms)
            for one in self._views.identities.values()
            if one.anew
        )
        return in_parts(sorted(nodes, key=lambda node: node.name), removed, sorted(since, key=lambda one: one.node))

    def _recent_revocations(self) -> list[str]:
        since = self._now_ms() - HONOURED_MS
        return [token.id for token in self._views.tokens.values() if token.revoked_at_ms > since]

    def _token_changed(self, old: Item[TokenRecord] | None, new: Item[TokenRecord] | None) -> None:
        if new is not None and new.value.revoked_at_ms and not (old is not None and old.value.revoked_at_ms):
            for session in self._sessions.values():
                session.outbox.revoke([new.name])

    def _tenant_changed(self, old: Item[TenantRecord] | None, new: Item[TenantRecord] | None) -> None:
        changed = new or old
        if changed is not None:
            self._evict_excess(changed.name)

    def _key_changed(self, old: Item[GrantKeyRecord] | None, new: Item[GrantKeyRecord] | None) -> None:
        self._send_settings()

    def _send_settings(self) -> None:
        for session in self._sessions.values():
            session.outbox.settings(self._settings())

    def _send_certificates(self) -> None:
        if self._certificates is not None:
            held = self._certificates.for_nodes()
            for session in self._sessions.values():
                session.outbox.zone_certificates(held)

    def _send_reach(self) -> None:
        for session in self._sessions.values():
            session.outbox.store_reach(away=self._reach.away)

    def _authorities_changed(self) -> None:
        for session in self._sessions.values():
            if self._authority.refuses(session.certificate):
                session.end(CertificateUntrusted(session.info.name))
        self._send_settings()

    def _order_changed(self, old: Item[OrderRecord] | None, new: Item[OrderRecord] | None) -> None:
        changed = new or old
        session = None if changed is None else self._sessions.get(changed.name)
        if session is not None:
            session.outbox.order(_order_message(None if new is None else new.value))
            if new is not None and new.value.order is Order.REMOVE:
                session.end(NodeRemoved(new.name))
        removed = [item is not None and item.value.order is Order.REMOVE for item in (old, new)]
        if any(removed):
            self._peers_changes.notice()

    def _identity_changed(self, old: Item[IdentityRecord] | None, new: Item[IdentityRecord] | None) -> None:
        session = None if new is None else self._sessions.get(new.name)
        if session is not None and new is not None and session.issued_ms < new.value.joined_at_ms:
            session.end(CertificateSuperseded(new.name))
        if new is not None and new.value.anew:
            self._peers_changes.notice()

    def _node_changed(self, old: Item[NodeInfo] | None, new: Item[NodeInfo] | None) -> None:
        either = new or old
        session = None if either is None else self._sessions.get(either.name)
        if session is not None and new is None:
            session.record_lost()
        elif session is not None and new is not None and new.value.started_at_ms > session.info.started_at_ms:
            session.end(Replaced("a newer session of this node has registered with another replica"))
        if new is None and old is not None:
            self._listed.pop(old.name, None)
            self._peers_changes.notice()
        elif new is not None and (bare := without_counts(new.value)) != self._listed.get(new.name):
            self._listed[new.name] = bare
            self._peers_changes.notice()

    async def _send_peers(self) -> None:
        while True:
            await self._peers_changes.wait()
            peers = self._peers()
            for session in self._sessions.values():
                session.outbox.peers(peers)

    async def _send_dns_records(self) -> None:
        while True:
            await self._dns_changes.wait()
            messages = self._dns.messages()
            for session in self._sessions.values():
                if session.info.dns:
                    session.outbox.dns_records(messages)

    def _tunnel_changed(self, old: Item[TunnelInfo] | None, new: Item[TunnelInfo] | None) -> None:
        if new is None:
            loser = None if old is None else self._sessions.get(old.value.node)
            if loser is not None and old is not None:
                loser.tunnel_deleted(old)
            return
        holder = self._sessions.get(new.value.node)
        if holder is not None:
            holder.tunnel_seen(new)
        if old is not None and old.value.node != new.value.node:
            session = self._sessions.get(old.value.node)
            if session is not None:
                reason = EVICTION_REASON_SUPERSEDED
                gone = Eviction(label=old.name, epoch=old.value.epoch, reason=reason, claim=new.value.claim)
                session.outbox.evict([gone])
        self._evict_excess(new.value.tenant, new.value.token_id)

    def _evict_excess(self, tenant: str, token_id: str = "") -> None:
        for excess, limit in self._quota.excess(tenant, token_id):
            session = self._sessions.get(excess.value.node)
            if session is not None:
                session.evict_for_quota(excess, limit)


def _order_message(record: OrderRecord | None) -> OrderMessage:
    return OrderMessage(state=NODE_STATE_READY if record is None else STATE_OF_ORDER[record.order])
