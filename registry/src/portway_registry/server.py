"""The registry's composition: its parts, made in the order in which they need each other; their start and stop."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from grpc import aio
from grpc_health.v1 import health_pb2
from portway_geo.database import open_locator
from portway_geo.errors import GeoError
from portway_geo.locator import Locator
from portway_proto.v1.admin_pb2_grpc import add_AdminServicer_to_server
from portway_proto.v1.discovery_pb2_grpc import add_DiscoveryServicer_to_server
from portway_proto.v1.enrolment_pb2_grpc import add_EnrolmentServicer_to_server
from portway_proto.v1.mesh_pb2_grpc import add_MeshServicer_to_server
from portway_runtime.balancers import Network
from portway_runtime.clocks import utc_now
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.expiry import ExpiryWarnings, Watched
from portway_runtime.file_stamps import stamps_of
from portway_runtime.listening import open_sockets
from portway_runtime.tasks import Tasks
from portway_runtime.threads import GRPC_THREADS, demand_threads

from portway_registry.acme.held import OwnNameCertificate
from portway_registry.acme.operator_wishes import OperatorWishes
from portway_registry.acme.publisher import Publisher
from portway_registry.acme.server_settings import ServerSettings, server_settings
from portway_registry.client_services import client_services
from portway_registry.cluster import Closing, Cluster, calling, open_cluster
from portway_registry.config import Config
from portway_registry.dns.challenges import Challenges
from portway_registry.errors import ConfigError
from portway_registry.metrics import AcmeCounts, CallCounts, exposition
from portway_registry.net.node_headers import NodeHeaders
from portway_registry.net.reached_at import reached_at
from portway_registry.nodes.certificates import require_current
from portway_registry.pki.cluster_authority import ClusterAuthority, configured_authority, reload_configured
from portway_registry.pki.expiry import watched_certificates
from portway_registry.pki.port_certificates import (
    CHECK_EVERY,
    CertificateFiles,
    PortCertificate,
    node_port_certificate,
    server_credentials,
)
from portway_registry.placement.reports import Reports
from portway_registry.ports import GrpcPort, GrpcPorts
from portway_registry.public_suffixes import SuffixCheck
from portway_registry.services.callers import by_certificate
from portway_registry.services.interceptor import CallInterceptor
from portway_registry.services.mesh import Mesh
from portway_registry.tunnels.port_blocks import PortBlocks

if TYPE_CHECKING:
    from portway_registry.acme.open import Obtaining

logger = logging.getLogger(__name__)

# Bytes. A node's whole state is one message: 20,000 tunnels at most, of 300 bytes, or 1,200 with a raw port and its
# ticket, and as many sessions of 620.
_LARGEST_NODE_MESSAGE: Final = 40 << 20
# Bytes. Requests of clients and operators are smaller; strangers' messages are read before their tokens are checked.
_LARGEST_CALL: Final = 64 << 10
# Of the public port. Clients and operators make few calls at a time; a channel queues further ones.
_CONCURRENT_CALLS: Final = 32
# For the store, signatures, GeoIP, and what grpc.aio waits on. They are started before gRPC's.
_OWN_THREADS: Final = 4
# Seconds between tries to load GeoIP while there is no thread for it.
_LOAD_AGAIN: Final = 30.0


class Registry:
    """One replica. Needs a running loop; several may run in one process."""

    def __init__(
        self,
        config: Config,
        *,
        on_failure: Callable[[BaseException], None] | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        """`on_failure` is called when a background part failed: the replica should be stopped then. `publisher`: who
        has an ACME server's questions to DNS answered, if it is not the cluster's nodes."""
        self._config = config
        self._publisher = publisher
        self._on_failure = on_failure or _ignore
        self._calls = CallCounts()
        self._closing: Closing = []  # what `stop` calls, the last first
        self._serving = False
        self._certificates: list[PortCertificate] = []
        self._configured: ClusterAuthority | None = None  # the CA of the settings
        self._challenges: Challenges | None = None
        self._address: Endpoint | None = None
        self._mesh_address: Endpoint | None = None
        self._admin_address: Endpoint | None = None
        self._metrics_address: Endpoint | None = None

    @property
    def address(self) -> str:
        """HOST:PORT of the public port, for clients, and for operators without `admin_listen`.

        Raises RuntimeError before the start.
        """
        return str(_started(self._address))

    @property
    def mesh_address(self) -> str:
        """HOST:PORT of the mesh port. Raises RuntimeError before the start."""
        return str(_started(self._mesh_address))

    @property
    def admin_address(self) -> str | None:
        """HOST:PORT of the port for operators alone; None when there is none, and before the start."""
        return None if self._admin_address is None else str(self._admin_address)

    @property
    def metrics_address(self) -> str | None:
        """HOST:PORT of the metrics page; None when there is none, and before the start."""
        return None if self._metrics_address is None else str(self._metrics_address)

    @property
    def challenges(self) -> Challenges:
        """The proofs for certificate authorities. Raises RuntimeError before the start."""
        if self._challenges is None:
            raise RuntimeError("the registry is not started")
        return self._challenges

    async def start(self) -> None:
        """Start everything or nothing: when a part cannot start, those before it are stopped again.

        The files are read first, so that a wrong path is an error at once. Then the store, in which the first start of
        a cluster creates what is missing; while the store is unreachable this waits. Then the views: no call is
        answered from an empty one. Then the mesh port, the public port, and metrics; health reports SERVING last.

        Raises ConfigError and NoThread. Cancelled, it stops what it started.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop in the reverse order: health first, so that no new callers come; the store last. May be called again.

        Nodes stay registered: their leases outlive their streams, and they go on with another replica.
        """
        self._serving = False
        while self._closing:
            close = self._closing.pop()
            try:
                await close()
            except Exception:
                logger.exception("a part did not stop cleanly")

    def reload_certificates(self) -> None:
        """Read the certificate files of all ports again, changed or not. New connections are shown what is in them."""
        for certificate in self._certificates:
            certificate.reload()
        if self._configured is not None:
            reload_configured(self._configured, self._config, utc_now())

    async def _start(self) -> None:
        config = self._config
        demand_threads(GRPC_THREADS + _OWN_THREADS)
        acme = server_settings(config)
        files: CertificateFiles | None = None
        if acme is None or config.tls_cert is not None:
            files = CertificateFiles(config, "tls_cert", "tls_key", utc_now)
        configured = self._configured = configured_authority(config, utc_now())
        if configured is not None:
            # Its errors come before the store is waited for.
            node_port_certificate(config, files, configured, utc_now)
        tasks = Tasks("registry", on_failure=self._on_failure)
        locator = self._open_locator(tasks)
        cluster = await open_cluster(config, files, configured, tasks, self._closing, on_failure=self._on_failure)
        self._challenges = cluster.challenges
        certificate = _public_certificate(config, files, cluster)
        self._certificates = [certificate]
        watched = watched_certificates(
            files,
            cluster.mesh_certificate,
            cluster.authority,
            config.etcd_cert,
            dict if cluster.obtained is None else cluster.obtained.watched,
        )
        obtaining = self._obtain(acme, cluster)
        tasks.spawn(ExpiryWarnings(watched, utc_now).watch(), name="watch the ends of certificates")
        if configured is not None:
            tasks.spawn(self._follow_files(configured), name="look at the CA's files")
        ports = GrpcPorts(2 if config.admin_listen is None else 3, config.max_connections)
        self._closing.append(ports.close)
        await self._serve_nodes(ports, cluster, certificate)
        wishes = None if obtaining is None else obtaining.wishes
        reports = await self._serve_clients(ports, cluster, certificate, locator, watched, wishes)
        if config.metrics_listen is not None:
            await self._serve_metrics(config.metrics_listen, cluster, reports, ports, watched, obtaining)
        for servicer in ports.health:
            await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
            self._closing.append(servicer.enter_graceful_shutdown)
        self._serving = True
        served = {"listen": self.address, "mesh_listen": self.mesh_address, "admin_listen": self.admin_address}
        logger.info("registry serves", extra={name: address for name, address in served.items() if address})

    def _obtain(self, settings: ServerSettings | None, cluster: Cluster) -> "Obtaining | None":
        """Obtain certificates from now on, if the settings say so."""
        if settings is None or cluster.wrapping is None:
            return None
        from portway_registry.acme.open import make_obtaining

        obtaining = make_obtaining(
            self._config,
            settings,
            cluster.store,
            cluster.views,
            self._publisher or cluster.challenges,
            cluster.wrapping,
            cluster.audit,
            cluster.now_ms,
            replica=cluster.replica.id,
        )
        tasks = Tasks("certificates", on_failure=self._on_failure)
        self._closing.append(tasks.close)  # gives the turn up while the store is still open
        tasks.spawn(obtaining.run(), name="obtain them")
        return obtaining

    def _open_locator(self, tasks: Tasks) -> Locator:
        try:
            locator = open_locator(self._config.geoip)
        except GeoError as error:
            raise ConfigError(str(error)) from error
        self._closing += [calling(locator.close), tasks.close]
        # Until it is loaded clients are not located, which costs them a round trip and the start nothing.
        tasks.spawn(_load(locator), name="load GeoIP")
        return locator

    async def _follow_files(self, configured: ClusterAuthority) -> None:
        """Take up other files of the CA, for ever."""
        paths = [path for path in (self._config.cluster_ca, self._config.cluster_ca_key) if path is not None]
        seen = stamps_of(paths)
        while True:
            await asyncio.sleep(CHECK_EVERY)
            if (now := stamps_of(paths)) != seen:
                seen = now
                reload_configured(configured, self._config, utc_now())

    async def _serve_nodes(self, ports: GrpcPorts, cluster: Cluster, certificate: PortCertificate) -> None:
        config, views = self._config, cluster.views
        port_blocks = PortBlocks(cluster.store, views, cluster.now_ms)
        suffix_check = SuffixCheck()
        if config.domain is not None:
            suffix_check.check(config.domain)
        mesh = Mesh(
            cluster.hub, views, port_blocks, cluster.certificates, suffix_check, cluster.reach, domain=config.domain
        )
        for_nodes = cluster.mesh_certificate
        if for_nodes is not certificate:
            self._certificates.append(for_nodes)
        mutual = server_credentials(for_nodes, authority=cluster.authority)
        port = ports.add("mesh_listen", mutual, largest_message=_LARGEST_NODE_MESSAGE)
        identify = by_certificate(partial(require_current, views), cluster.authority.refuses)
        server = port.server(CallInterceptor(port.front, identify, self._calls.count, cluster.failed.note))
        add_MeshServicer_to_server(mesh, server)
        self._mesh_address = await port.serve(config.mesh_listen)

    async def _serve_clients(
        self,
        ports: GrpcPorts,
        cluster: Cluster,
        certificate: PortCertificate,
        locator: Locator,
        watched: Callable[[], dict[str, Watched]],
        wishes: OperatorWishes | None,
    ) -> Reports:
        config = self._config
        services = client_services(
            config, cluster, locator, watched, wishes, connections=ports.connections, closing=self._closing
        )
        headers = NodeHeaders(cluster.replica.id, cluster.hub.front_key.accepted, cluster.now_ms)

        def add(
            key: str, node_headers: NodeHeaders | None = None, balancers: Sequence[Network] = ()
        ) -> tuple[GrpcPort, aio.Server]:
            port = ports.add(
                key,
                server_credentials(certificate),
                largest_message=_LARGEST_CALL,
                concurrent_calls=_CONCURRENT_CALLS,
                node_headers=node_headers,
                balancers=balancers,
            )
            return port, port.server(
                CallInterceptor(port.front, services.identify, self._calls.count, cluster.failed.note, services.streams)
            )

        public, server = add("listen", headers, config.proxy_protocol_from)
        add_DiscoveryServicer_to_server(services.discovery, server)
        add_EnrolmentServicer_to_server(services.enrolment, server)
        if config.admin_listen is None:
            add_AdminServicer_to_server(services.admin, server)
        else:
            operators, own = add("admin_listen")
            add_AdminServicer_to_server(services.admin, own)
            self._admin_address = await operators.serve(config.admin_listen)
        self._address = await public.serve(config.listen)
        self._tell_nodes(cluster, self._address)
        return services.reports

    def _tell_nodes(self, cluster: Cluster, listening: Endpoint) -> None:
        """Let nodes pass connections on to the public port, as long as it is served."""
        if not self._config.called:
            return
        at = reached_at(self._config.advertise, listening)
        if at is None:
            logger.warning("no node passes connections on here: name an address of this machine with --advertise")
            return
        cluster.replica.serves_at(str(at))
        self._closing.append(cluster.replica.serves_no_more)

    async def _serve_metrics(
        self,
        address: Endpoint,
        cluster: Cluster,
        reports: Reports,
        ports: GrpcPorts,
        watched: Callable[[], dict[str, Watched]],
        obtaining: "Obtaining | None",
    ) -> None:
        from portway_runtime.admin_http import METRICS, AdminHttp, Page, health_page

        def health() -> Page:
            return health_page("" if self._serving else "stopping")

        def metrics() -> Page:
            ends = {name: one.end.timestamp() for name, one in watched().items()}
            acme = None
            if obtaining is not None and cluster.obtained is not None:
                acme = AcmeCounts(cluster.obtained.failures(), obtaining.keeper.outcomes, obtaining.turn.held)
            shown = exposition(
                self._calls, cluster.views, cluster.hub, cluster.reach, reports, ports.fronts, ends, acme
            )
            return Page(shown, content_type=METRICS)

        pages = AdminHttp({"/healthz": health, "/metrics": metrics})
        self._closing.append(pages.close)
        try:
            port = (await pages.start(open_sockets(address))).port
        except ListenError as error:
            raise ConfigError(f"--metrics-listen: {error}") from error
        self._metrics_address = Endpoint(address.host, port)


def _public_certificate(config: Config, files: CertificateFiles | None, cluster: Cluster) -> PortCertificate:
    if files is not None:
        return files
    assert cluster.obtained is not None, "without files there is an ACME server"
    return OwnNameCertificate(cluster.obtained, config.called, cluster.authority, utc_now)


def _started(address: Endpoint | None) -> Endpoint:
    if address is None:
        raise RuntimeError("the registry is not started")
    return address


def _ignore(error: BaseException) -> None:
    pass


async def _load(locator: Locator) -> None:
    """Without a thread to read it on, it is loaded later."""
    while True:
        try:
            return await locator.load()
        except RuntimeError as error:
            logger.warning("clients are not located yet", extra={"reason": str(error)})
            await asyncio.sleep(_LOAD_AGAIN)
