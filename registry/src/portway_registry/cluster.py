"""What all ports of a replica are served from: the store, its views, and what decides on them, made in the order in
which they need each other.

Here: making and starting them. Not here: the ports (server.py).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from portway_runtime.backoff import jittered
from portway_runtime.certificates import issuer_id
from portway_runtime.clocks import utc_now
from portway_runtime.tasks import Tasks
from portway_runtime.version import VERSION

from portway_registry.access.bootstrap import bootstrap
from portway_registry.access.failed_authentications import FailedAuthentications
from portway_registry.access.grant_keys import GrantKeys
from portway_registry.access.grants import Grants
from portway_registry.acme.held import HeldCertificates, open_held
from portway_registry.acme.wrapping import WrappingKey
from portway_registry.backup.daily import DailyBackups
from portway_registry.config import Config
from portway_registry.dns.board import DnsBoard
from portway_registry.dns.challenges import PUBLISHED_WITHIN, Challenges
from portway_registry.dns.upkeep import DnsUpkeep
from portway_registry.errors import StoreFull, StoreUnavailable
from portway_registry.nodes.authority_rotation import AuthorityRotation
from portway_registry.nodes.certificates import NodeCertificates
from portway_registry.nodes.front_key import known_keys
from portway_registry.nodes.hub import Hub
from portway_registry.nodes.reachability import dialler
from portway_registry.pki.cluster_authority import ClusterAuthority, stored_authority
from portway_registry.pki.port_certificates import CertificateFiles, PortCertificate, node_port_certificate
from portway_registry.state.audit import Audit
from portway_registry.state.records import ReplicaRecord
from portway_registry.state.replica import Replica, new_replica_id
from portway_registry.state.store_reach import StoreReach
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.state.views import View, Views
from portway_registry.store.contract import Store
from portway_registry.store.open import open_store
from portway_registry.tunnels.quota import Quota

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What stops a part that was started; the last one is called first.
Closing = list[Callable[[], Awaitable[object]]]

# Seconds at most between tries to reach the store at start; each has the store's own time limit besides.
_PAUSE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """What all ports are served from."""

    cluster_id: str
    created_at_ms: int
    store: Store
    views: Views
    authority: ClusterAuthority
    rotation: AuthorityRotation
    mesh_certificate: PortCertificate
    grants: Grants
    grant_keys: GrantKeys
    quota: Quota
    audit: Audit
    failed: FailedAuthentications
    certificates: NodeCertificates
    hub: Hub
    replica: Replica
    reach: StoreReach
    now_ms: Callable[[], int]
    dns: DnsBoard
    challenges: Challenges
    obtained: HeldCertificates | None  # None when the settings name no ACME server, and so is the next
    wrapping: WrappingKey | None


async def open_cluster(
    config: Config,
    public: CertificateFiles | None,
    configured: ClusterAuthority | None,
    tasks: Tasks,
    closing: Closing,
    *,
    on_failure: Callable[[BaseException], None],
) -> Cluster:
    """Open the store, in which the first start of a cluster creates what is missing, and start all that follows it.

    public: the certificate of the public port, if it is from files. configured: the CA of the settings, if they name
    one. Waits while the store cannot be reached. Raises ConfigError and StoreError.
    """
    store = open_store(config.store_spec(), on_failure=on_failure)
    closing.append(store.close)
    token_file = config.first_admin_token_file()
    settings = await _once_reachable(lambda: bootstrap(store, admin_token_file=token_file, now_ms=now_ms()))
    authority = configured
    if authority is None:
        authority = await _once_reachable(lambda: stored_authority(store, now_ms=now_ms()))
    mesh_certificate = node_port_certificate(config, public, authority, utc_now)
    views = Views(store, on_failure=on_failure)
    closing.append(views.close)
    await _once_reachable(views.start)
    if not authority.from_files:
        closing.append(calling(authority.follow(views.authority)))
    wrapping: WrappingKey | None = None
    obtained: HeldCertificates | None = None
    if config.acme_directory is not None:
        wrapping, held = await _once_reachable(lambda: open_held(config, store, views, utc_now))
        closing.append(calling(held.start()))
        obtained = held
    limits = TunnelLimits(views.tokens, views.tenants, default=config.max_tunnels)
    grants = Grants(settings.cluster_id, views.grant_keys, limits, now_ms)
    quota = Quota(limits, views.tunnels)
    trusted = authority
    board = DnsBoard(views, domain=config.domain, registry_name=config.called)
    audit = Audit(store, now_ms)
    reach = StoreReach(store, on_failure=on_failure)
    hub = Hub(
        store,
        views,
        grants,
        quota,
        audit,
        now_ms,
        cluster_id=settings.cluster_id,
        authority=authority,
        lease_seconds=config.lease_seconds,
        on_failure=on_failure,
        dial=dialler(lambda: trusted.certificate, config.dialled_scopes()) if config.check_addresses == "yes" else None,
        dns=board,
        registry_name=config.called,
        certificates=obtained,
        reach=reach,
    )
    reach.start()
    closing.append(reach.close)
    hub.start()
    closing.append(hub.close)
    grant_keys = GrantKeys(store, views, audit, now_ms)
    life = config.node_certificate_seconds
    rotation = AuthorityRotation(store, views, authority, audit, now_ms, certificate_life_ms=life * 1000)
    failed = FailedAuthentications(audit)
    upkeep = DnsUpkeep(store, views, now_ms)
    replica = await _join_replicas(config, store, views, authority, mesh_certificate, closing, on_failure)
    tasks.spawn(grant_keys.run(), name="rotate grant keys")
    tasks.spawn(rotation.run(), name="rotate the CA")
    tasks.spawn(audit.keep_trimmed(), name="trim the audit")
    tasks.spawn(failed.run(), name="write failed authentications")
    tasks.spawn(upkeep.run(), name="name the name servers")
    if config.backup_dir is not None:
        backups = DailyBackups(store, config.backup_dir, now_ms, created_at_ms=settings.created_at_ms)
        tasks.spawn(backups.run(), name="back the store up")
    return Cluster(
        settings.cluster_id,
        settings.created_at_ms,
        store,
        views,
        authority,
        rotation,
        mesh_certificate,
        grants,
        grant_keys,
        quota,
        audit,
        failed,
        NodeCertificates(store, authority, audit, now_ms, life=life),
        hub,
        replica,
        reach,
        now_ms,
        board,
        Challenges(store, views, now_ms, first_within=PUBLISHED_WITHIN),
        obtained,
        wrapping,
    )


async def _join_replicas(
    config: Config,
    store: Store,
    views: Views,
    authority: ClusterAuthority,
    mesh_certificate: PortCertificate,
    closing: Closing,
    on_failure: Callable[[BaseException], None],
) -> Replica:
    """Tell the other replicas that this one lives, and what it knows; its own view of them has it then."""
    replica_id, started = new_replica_id(), now_ms()

    def describe() -> ReplicaRecord:
        return ReplicaRecord(
            replica_id,
            started,
            tuple(sorted(views.grant_keys.items)),
            tuple(sorted(authority.ids)),
            issuer_id(mesh_certificate.current().certificate, authority.trusted.values()),
            version=VERSION,
            mesh=tuple(map(str, config.mesh_advertise)),
            front_keys=known_keys(views.front_key.get("")),
        )

    replica = Replica(store, describe, lease_seconds=config.lease_seconds)
    keeping = Tasks("this registry's record", on_failure=on_failure)
    closing += [replica.close, keeping.close]  # once nothing writes it again
    await _once_reachable(lambda: _published(replica, views.replicas))
    closing.append(calling(views.grant_keys.subscribe(replica.changed)))
    closing.append(calling(views.front_key.subscribe(replica.changed)))
    closing.append(calling(authority.subscribe(replica.changed)))
    replica.changed()
    keeping.spawn(replica.run(), name="keep it")
    return replica


async def _published(replica: Replica, shown: View[ReplicaRecord]) -> None:
    """Publish and wait until it is shown, unless the store has no room: `run` publishes then, once there is some. A
    registry serves without it."""
    try:
        await replica.publish()
        await shown.caught_up(replica.id)
    except StoreFull as error:
        logger.warning(
            "this registry's record is not written yet, since the store is full: no key and no CA can be replaced",
            extra={"reason": str(error)},
        )


def now_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def calling(function: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    """A part's stop that needs no waiting."""

    async def close() -> None:
        function()

    return close


async def _once_reachable(attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` returns, tried until the store can be reached."""
    while True:
        try:
            return await attempt()
        except StoreUnavailable as error:
            logger.warning("waiting for the store", extra={"reason": str(error)})
            await asyncio.sleep(jittered(_PAUSE))
