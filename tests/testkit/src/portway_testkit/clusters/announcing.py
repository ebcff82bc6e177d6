"""Announcements over a store without any gRPC: nodes that announce, and clients whose grants the store's key signs.

The time is NOW_MS unless a test moves `now_ms`.
"""

from collections.abc import Sequence

from portway_proto.v1.mesh_pb2 import Announce, AnnouncedSession, Eviction, Withdrawal
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_registry.access.grant_keys import new_key
from portway_registry.access.grants import Grants
from portway_registry.state import keys
from portway_registry.state.grant_reader import GrantReader
from portway_registry.state.records import Role, TokenRecord, encode
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.state.views import Views
from portway_registry.store.contract import LeaseId, Store
from portway_registry.tunnels.announcements import Announcements, checked
from portway_registry.tunnels.presences import Presences
from portway_registry.tunnels.quota import Quota
from portway_registry.tunnels.sessions import SessionRules
from portway_registry.tunnels.statement_checks import StatementChecks

from portway_testkit.clusters.views import ViewedStore, settle
from portway_testkit.signers import CLUSTER, CLUSTER_ID, NOW_MS, AnnouncedClient, SessionSigner


class Announcing:
    """One replica's part in announcements. Needs a running loop; `close` ends its thread."""

    def __init__(self, store: Store, views: Views, *, max_tunnels: int = 100) -> None:
        """`max_tunnels`: of a tenant without a quota of its own."""
        self.now_ms = NOW_MS
        self.checks = StatementChecks()
        self.presences = Presences(store, views.presences, self._now)
        self._store = store
        self._views = views
        limits = TunnelLimits(views.tokens, views.tenants, default=max_tunnels)
        self._quota = Quota(limits, views.tunnels)
        self._grants = Grants(CLUSTER_ID, views.grant_keys, limits, self._now)
        reader = GrantReader(CLUSTER_ID, views.grant_keys, self._now)
        self._rules = SessionRules(CLUSTER, reader, views.tokens, self.presences, self._now)

    def close(self) -> None:
        self.checks.close()

    def node(self, name: str, region: str = "fra", store: Store | None = None) -> Announcements:
        """What a node announces is applied by this; to another store than the replica's own if one is given."""
        return Announcements(
            store or self._store,
            self._views.tunnels,
            self._quota,
            self._rules,
            self.checks.of_node(),
            self._now,
            node=name,
            region=region,
        )

    async def client(
        self, token_id: str = "token1", tenant: str = "demo", signer: SessionSigner | None = None
    ) -> AnnouncedClient:
        """A client with a new session key and this token, which is made when there is none."""
        if not self._views.grant_keys.items:
            await self._store.put(keys.grant_key("1"), encode(new_key("1", active_from_ms=1)))
            await settle(self._store, self._views.grant_keys.mirror)
        token = self._views.tokens.get(token_id)
        if token is None:
            token = TokenRecord(token_id, tenant, Role.CLIENT, b"")
            await self._store.put(keys.token(token_id), encode(token))
            await settle(self._store, self._views.tokens.mirror)
        signer = signer or SessionSigner()
        return AnnouncedClient(signer, self._grants.sign(token, signer.key.public).token, self._now)

    def _now(self) -> int:
        return self.now_ms


class AnnouncingNode:
    """What one node announces, with the sessions of the clients that are named."""

    def __init__(self, cluster: ViewedStore, announcing: Announcing, name: str, store: Store | None = None) -> None:
        self._cluster = cluster
        self.name = name
        self.announcements = announcing.node(name, store=store)
        self.lease = LeaseId(0)

    async def announce(
        self,
        *bound: TunnelInfo,
        of: AnnouncedClient | Sequence[AnnouncedClient] = (),
        sessions: Sequence[AnnouncedSession] = (),
        withdrawn: Sequence[TunnelInfo] = (),
        full: bool = False,
    ) -> list[tuple[str, int, int]]:
        """What it is told to drop: label, epoch, reason."""
        return [(one.label, one.epoch, one.reason) for one in await self.evicted(bound, of, sessions, withdrawn, full)]

    async def evicted(
        self,
        bound: Sequence[TunnelInfo],
        of: AnnouncedClient | Sequence[AnnouncedClient] = (),
        sessions: Sequence[AnnouncedSession] = (),
        withdrawn: Sequence[TunnelInfo] = (),
        full: bool = False,
    ) -> list[Eviction]:
        if not self.lease:
            self.lease = await self._cluster.store.grant_lease(60)
        clients = [of] if isinstance(of, AnnouncedClient) else of
        batch = Announce(
            batch=1,
            bound=bound,
            withdrawn=[Withdrawal(label=one.label, epoch=one.epoch) for one in withdrawn],
            full=full,
            sessions=[*sessions, *(client.session(self.name) for client in clients)],
        )
        return await self.announcements.apply(await checked(batch), self.lease)


def announce(
    node: str,
    *bound: TunnelInfo,
    of: "tuple[AnnouncedClient, ...]" = (),
    sessions: "tuple[AnnouncedSession, ...]" = (),
    batch: int = 1,
    full: bool = False,
) -> Announce:
    """A batch of a node with the sessions of these clients, and others."""
    return Announce(batch=batch, bound=bound, full=full, sessions=[*sessions, *(client.session(node) for client in of)])
