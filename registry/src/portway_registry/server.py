"""The registry, put together: what it is made of, and the order in which it starts and stops.

Here: composition alone. Not here: any decision.
"""

import asyncio
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from portway_geo.database import open_locator
from portway_geo.errors import GeoError
from portway_geo.locator import Locator
from portway_proto.v1.admin_pb2_grpc import add_AdminServicer_to_server
from portway_proto.v1.discovery_pb2_grpc import add_DiscoveryServicer_to_server
from portway_proto.v1.enrolment_pb2_grpc import add_EnrolmentServicer_to_server
from portway_proto.v1.mesh_pb2_grpc import add_MeshServicer_to_server
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.listening import open_sockets
from portway_runtime.settings import flag
from portway_runtime.tasks import Tasks

from portway_registry.access.bootstrap import bootstrap
from portway_registry.access.grants import Grants, KeyRotation
from portway_registry.access.invitations import Invitations
from portway_registry.access.tokens import Tokens
from portway_registry.config import Config
from portway_registry.errors import ConfigError, StoreUnavailable
from portway_registry.metrics import CallCounts, exposition
from portway_registry.nodes.certificates import NodeCertificates, require_current
from portway_registry.nodes.hub import Hub
from portway_registry.nodes.operator_orders import OperatorOrders
from portway_registry.nodes.reachability import dialler
from portway_registry.pki.cluster_authority import configured_authority, stored_authority
from portway_registry.pki.port_certificates import CertificateFiles, node_port_certificate, server_credentials
from portway_registry.placement.reports import Reports
from portway_registry.placement.roster import Roster
from portway_registry.services.admin import Admin
from portway_registry.services.callers import by_certificate, by_token
from portway_registry.services.discovery import Discovery
from portway_registry.services.enrolment import Enrolment
from portway_registry.services.interceptor import CallInterceptor
from portway_registry.services.mesh import Mesh
from portway_registry.state.audit import Audit
from portway_registry.state.views import Views
from portway_registry.store.open import open_store
from portway_registry.tunnels.port_blocks import PortBlocks

logger = logging.getLogger(__name__)

T = TypeVar("T")

_GRPC_OPTIONS: Final = (
    # A frozen peer is noticed by unanswered pings; keepalive alone takes 40 s and more.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    # Nodes and watchers ping too, on streams that may be silent for long; by default that is answered by GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Two registries on one port would share its clients by chance.
    ("grpc.so_reuseport", 0),
)
# A node's whole state: 10,000 tunnels of some 300 bytes, five times over.
_LARGEST_NODE_MESSAGE: Final = 16 << 20
# Nothing that clients or operators ask needs more; strangers' messages are read before their tokens are looked at.
_LARGEST_CALL: Final = 64 << 10
# How long calls that run may go on after the end was asked for. Streams never end by themselves.
_GRACE: Final = 1.0
# Between tries to read the store at start, at most; each has the store's own time limit besides.
_PAUSE: Final = 2.0


class Registry:
    """One replica. Needs a running loop; may be used in any process, several at a time."""

    def __init__(self, config: Config, *, on_failure: Callable[[BaseException], None] | None = None) -> None:
        """`on_failure` is told when a part ended that must not: the replica should be stopped then."""
        self._config = config
        self._on_failure = on_failure or (lambda error: None)
        self._calls = CallCounts()
        self._closing: list[Callable[[], Awaitable[object]]] = []
        self._serving = False
        self._address: Endpoint | None = None
        self._mesh_address: Endpoint | None = None
        self._metrics_address: Endpoint | None = None

    @property
    def address(self) -> str:
        """HOST:PORT of the public port. As for the others: known once started."""
        return str(_started(self._address))

    @property
    def mesh_address(self) -> str:
        return str(_started(self._mesh_address))

    @property
    def metrics_address(self) -> str | None:
        return None if self._metrics_address is None else str(self._metrics_address)

    async def start(self) -> None:
        """Start everything, or nothing: what had started is stopped again when a part cannot.

        The files are read before anything else, so that a wrong path is said at once. Then the store, and what the
        first start of a cluster makes in it; while the store is away this waits. Then the views: no call is answered
        from an empty one. Then the nodes' port, then the public one, then metrics; health says SERVING last.

        Raises ConfigError.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config = self._config
        shown = CertificateFiles(config, "tls_cert", "tls_key", _utc_now)
        brought = configured_authority(config, _utc_now())
        if brought is not None:
            node_port_certificate(config, shown, brought, _utc_now)  # said before the store is waited for
        tasks = Tasks("registry", on_failure=self._on_failure)
        try:
            locator = open_locator(config.geoip)
        except GeoError as error:
            raise ConfigError(str(error)) from error
        self._closing += [_closing(locator), tasks.close]
        # Until it is done clients are not located, which costs them a round trip and the start nothing.
        tasks.spawn(locator.load(), name="load GeoIP")

        store = open_store(config.store_spec(), on_failure=self._on_failure)
        self._closing.append(store.close)
        settings = await _patiently(
            lambda: bootstrap(store, admin_token_file=config.first_admin_token_file(), now_ms=_now_ms())
        )

        if brought is None:
            authority = await _patiently(lambda: stored_authority(store, now_ms=_now_ms()))
        else:
            authority = brought
        views = Views(store, on_failure=self._on_failure)
        self._closing.append(views.close)
        await _patiently(views.start)

        grants = Grants(settings.cluster_id, views.grant_keys, _now_ms, default_max_tunnels=config.max_tunnels)
        tasks.spawn(KeyRotation(store, views.grant_keys, _now_ms).run(), name="rotate grant keys")
        hub = Hub(
            store,
            views,
            grants,
            _now_ms,
            cluster_id=settings.cluster_id,
            lease_seconds=config.lease_seconds,
            default_max_tunnels=config.max_tunnels,
            on_failure=self._on_failure,
            dial=dialler(authority.certificate) if config.check_addresses == "yes" else None,
        )
        hub.start()
        self._closing.append(hub.close)

        audit = Audit(store, _now_ms)
        joining = NodeCertificates(store, authority, audit, _now_ms, life=config.node_certificate_seconds)
        mesh_interceptor = CallInterceptor(by_certificate(partial(require_current, views)), self._calls.count)
        mesh = _server(mesh_interceptor, ("grpc.max_receive_message_length", _LARGEST_NODE_MESSAGE))
        add_MeshServicer_to_server(Mesh(hub, views, PortBlocks(store, views, _now_ms), joining), mesh)
        mesh_health = _add_health(mesh)
        mutual = server_credentials(
            node_port_certificate(config, shown, authority, _utc_now), client_ca=authority.certificate
        )
        self._mesh_address = await self._listen(mesh, config.mesh_listen, mutual, "mesh_listen")

        tokens = Tokens(store, views.tokens, audit, _now_ms)
        invitations = Invitations(store, views.invitations, audit, _now_ms)
        orders = OperatorOrders(store, views, audit, _now_ms)
        interceptor = CallInterceptor(by_token(tokens, invitations), self._calls.count)
        public = _server(interceptor, ("grpc.max_receive_message_length", _LARGEST_CALL))
        roster = Roster(views.nodes, views.orders, hub)
        self._closing.append(roster.close)
        reports = Reports(roster.node, time.monotonic)
        discovery = Discovery(roster, grants, locator, reports, cluster_ca=authority.certificate)
        add_DiscoveryServicer_to_server(discovery, public)
        add_EnrolmentServicer_to_server(Enrolment(joining), public)
        add_AdminServicer_to_server(Admin(views, orders, tokens, invitations, audit), public)
        public_health = _add_health(public)
        self._address = await self._listen(public, config.listen, server_credentials(shown), "listen")

        if config.metrics_listen is not None:
            from portway_runtime.admin_http import METRICS, AdminHttp, Page, health_page

            pages = AdminHttp(
                {
                    "/healthz": lambda: health_page("" if self._serving else "stopping"),
                    "/metrics": lambda: Page(exposition(self._calls, views, hub, reports), content_type=METRICS),
                }
            )
            self._closing.append(pages.close)
            self._metrics_address = await pages.start(_metrics_sockets(config.metrics_listen))

        for servicer in (mesh_health, public_health):
            await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
            self._closing.append(servicer.enter_graceful_shutdown)
        self._serving = True
        logger.info("registry serves", extra={"listen": self.address, "mesh_listen": self.mesh_address})

    async def stop(self) -> None:
        """Stop in the reverse order: health first, so that nobody new comes; the store last. May be called again.

        Nodes stay known: their leases outlive their streams, and they go on with another replica.
        """
        self._serving = False
        while self._closing:
            close = self._closing.pop()
            try:
                await close()
            except Exception:
                logger.exception("a part did not stop cleanly")

    async def _listen(
        self, server: aio.Server, address: Endpoint, credentials: grpc.ServerCredentials, name: str
    ) -> Endpoint:
        self._closing.append(lambda: server.stop(_GRACE))
        try:
            port = server.add_secure_port(str(address), credentials)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen at {flag(name)} {address}: is the port taken?") from error
        await server.start()
        return Endpoint(address.host, port)


def _started(address: Endpoint | None) -> Endpoint:
    if address is None:
        raise RuntimeError("the registry is not started")
    return address


def _metrics_sockets(endpoint: Endpoint) -> list[socket.socket]:
    try:
        return open_sockets(endpoint)
    except ListenError as error:
        raise ConfigError(f"--metrics-listen: {error}") from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _closing(locator: Locator) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        locator.close()

    return close


def _server(interceptor: CallInterceptor, *options: tuple[str, int]) -> aio.Server:
    return aio.server(interceptors=(interceptor,), options=(*_GRPC_OPTIONS, *options))


def _add_health(server: aio.Server) -> health.aio.HealthServicer:
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` returns as soon as the store can be reached."""
    while True:
        try:
            return await attempt()
        except StoreUnavailable as error:
            logger.warning("waiting for the store", extra={"reason": str(error)})
            await asyncio.sleep(random.uniform(_PAUSE / 2, _PAUSE))  # noqa: S311 - spreads load
