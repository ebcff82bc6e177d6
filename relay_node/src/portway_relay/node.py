"""A relay node, put together: what it is made of, and the order in which it starts and stops.

Here: composition alone. Not here: any decision.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from portway_carrier.select import make_carrier
from portway_carrier.values import Limits
from portway_proto.v1.lane_pb2 import FAILURE_CODE_EPOCH, Failure
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, NODE_STATE_DRAINING, NodeState, TunnelInfo
from portway_runtime import clocks as clock
from portway_runtime.clocks import Monotonic, WallClock
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.listening import open_sockets
from portway_runtime.rates import AddressRate
from portway_runtime.tasks import Tasks

from portway_relay.certificates import POLL_SECONDS, Certificates, LoadedCertificates
from portway_relay.config import NodeConfig
from portway_relay.ingress.public_port import ConnectionHandlers, PublicPort
from portway_relay.ingress.raw_visitors import RawVisitors
from portway_relay.membership.renewal import renewal_for
from portway_relay.mesh.announcer import TunnelAnnouncer, without_owner
from portway_relay.mesh.inbound_lanes import InboundLanes
from portway_relay.mesh.peers import Peers
from portway_relay.mesh.requests import PeerRequests
from portway_relay.metrics import exposition
from portway_relay.raw_ports.account import PortAccount
from portway_relay.raw_ports.region_addresses import RegionAddresses
from portway_relay.raw_ports.reservation import PortReservation
from portway_relay.raw_ports.sibling_ports import SiblingPorts
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.raw_ports.tickets import Tickets
from portway_relay.registry_link.message_handler import Cluster
from portway_relay.registry_link.outbox import Announcements
from portway_relay.registry_link.probing import AddressProber
from portway_relay.registry_link.stream import RegistryLink
from portway_relay.report import Parts, Report, public_address
from portway_relay.routing.lookup import Lookup
from portway_relay.routing.proofs import Proofs
from portway_relay.routing.routes import Routes
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import Tunnel
from portway_relay.sessions.grants import GrantVerifier
from portway_relay.sessions.greeter import Greeter
from portway_relay.sessions.session_tunnels import SessionContext
from portway_relay.sessions.sessions import Sessions
from portway_relay.visits import Destination, Visits

if TYPE_CHECKING:
    from portway_runtime.admin_http import AdminHttp

logger = logging.getLogger(__name__)

# Whoever connected just before a node stopped listening has sent a hello by then, or is in no hurry.
_HANDED_ON_WITHIN: Final = 1.0
# The last bytes of the last visits are on their way; a peer that reads has them in a round trip or two.
_FLUSHED_WITHIN: Final = 0.5


class Node:
    """One node. Needs a running loop; several may run in one process.

    Made: the certificates are read and checked, nothing is opened yet.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        on_failure: Callable[[BaseException], None] | None = None,
        monotonic: Monotonic = clock.monotonic,
        wall_clock: WallClock = clock.wall_clock,
    ) -> None:
        """`on_failure` is told when a part ended that must not: the node should be stopped then.

        Raises CertificateError.
        """
        self.config = config
        limits = config.limits
        failed = on_failure or (lambda error: None)
        self._tasks = Tasks("node", failed)
        self._certificates = Certificates(config)
        self._carrier = make_carrier(Limits(handshake=limits.greeting_time))
        self._grants = GrantVerifier(wall_clock)
        self._announcements = Announcements(config.name, config.region, config.zone)

        def describe(tunnel: Tunnel) -> TunnelInfo:
            return without_owner(self._announcements.describe(tunnel))

        self._peers = Peers(
            config.name,
            config.region,
            self._carrier,
            self._loaded,
            lambda: map(describe, self._table.all_live()),
            on_refused=lambda: self._inbound_lanes.drop_refused(),
            on_failure=failed,
        )
        self._visits = Visits(
            self._carrier, self._elsewhere, first_bytes_time=limits.first_bytes_time, on_failure=failed
        )
        account = PortAccount(
            config.raw_ports,
            limits.port_rest,
            monotonic,
            at_sibling=lambda port: self._sibling_ports.label(port),
        )
        self._raw_ports = RawPorts(
            config.listen.host if config.raw_listen is None else config.raw_listen,
            account,
            lambda label, sock, peer: self._raw_visitors.connected(label, sock, peer),
        )
        self._sibling_ports = SiblingPorts(
            config.region,
            range(config.raw_ports.first, config.raw_ports.last + 1),
            account,
            self._raw_ports,
            rest=limits.port_rest,
            clock=monotonic,
        )
        self._port_reservation = PortReservation(
            account,
            lambda request: self._link.reserve_ports(request),
            rest=limits.port_rest,
            clock=monotonic,
            on_failure=failed,
        )
        self._proofs = Proofs(limits.proof_hashes_per_second, limits.proof_hash_burst, monotonic)
        self._routes = Routes(
            config.name,
            self._peers.pool_of,
            lambda label: self._table.epoch(label),
            self._bound_elsewhere,
            self._proofs,
            monotonic,
        )
        self._table = TunnelTable(
            self._raw_ports,
            TunnelAnnouncer(self._announcements, self._peers, self._routes, describe),
            known_epoch=self._routes.epoch,
            proofs=self._proofs,
            max_visits=limits.max_visits_per_tunnel,
            clock=wall_clock,
        )
        self._lookup = Lookup(
            config.region,
            self._table,
            self._routes,
            self._peers,
            lambda label: self._link.resolve(label),
            a_second=limits.lookups_per_second,
            time_limit=limits.lookup_time,
            clock=monotonic,
            on_failure=failed,
        )
        rate = AddressRate(limits.connections_per_second, limits.connection_burst, monotonic)
        self._raw_visitors = RawVisitors(
            self._lookup, self._visits, config.region, rate=rate, max_lookups=limits.max_half_open, on_failure=failed
        )
        tickets = Tickets(self._loaded, config.region, wall_clock)
        self._addresses = RegionAddresses(
            config.region,
            account,
            self._port_reservation,
            self._peers,
            self._sibling_ports.believed,
            lambda label: self._link.resolve(label),
            on_failure=failed,
        )
        self._sessions = Sessions(
            config,
            self._carrier,
            self._grants,
            SessionContext(
                limits,
                self._table,
                tickets,
                self._addresses,
                lambda: public_address(config, self._public_port),
                self._routes.client_moved,
                monotonic,
            ),
            wall_clock=wall_clock,
        )
        self._greeter = Greeter(
            self._carrier,
            lambda: self._loaded().link_tls,
            self._sessions,
            time_limit=limits.greeting_time,
            capacity=limits.max_greetings,
            capacity_per_address=limits.max_greetings_per_address,
            clock=monotonic,
            on_failure=failed,
        )
        self._inbound_lanes = InboundLanes(
            self._carrier,
            lambda: self._loaded().mesh_tls,
            PeerRequests(self._peers, self._table, self._routes, self._sibling_ports, self._visits, describe),
            capacity=limits.max_greetings,
            capacity_per_address=limits.max_greetings_per_address,
            clock=monotonic,
            time_limit=limits.greeting_time,
            on_failure=failed,
        )
        self._public_port = PublicPort(
            config,
            self._carrier,
            self._loaded,
            self._lookup,
            ConnectionHandlers(self._visits.start_tls, self._greeter.accept, self._inbound_lanes.accept),
            rate=rate,
            clock=monotonic,
            on_failure=failed,
        )
        self._probing = AddressProber(
            self._carrier, self._loaded, lambda probed: self._link.tell_probed(probed), on_failure=failed
        )
        self._cluster = Cluster(
            self._grants,
            self._sessions,
            self._table,
            self._peers,
            self._port_reservation,
            self._ordered,
            self._probing.probe,
        )
        self._link = RegistryLink(
            config.registry,
            self._loaded,
            lambda: self._report.info(),
            self._table.all_live,
            self._announcements,
            self._cluster,
            clock=monotonic,
            wall_clock=wall_clock,
            on_failure=failed,
        )
        self._renewal = renewal_for(
            config, lambda csr: self._link.renew_certificate(csr), self.reload_certificates, on_failure=failed
        )
        self._report = Report(
            config,
            Parts(
                self._carrier,
                self._public_port,
                self._raw_visitors,
                self._greeter,
                self._sessions,
                self._table,
                self._visits,
                self._raw_ports,
                self._proofs,
                self._peers,
                self._inbound_lanes,
                self._routes,
                self._lookup,
                self._link,
            ),
        )
        self._admin = None if config.admin_listen is None else _admin_http(self)
        self._admin_address: Endpoint | None = None

    @property
    def carrier(self) -> str:
        """The name of the carrier that it runs."""
        return self._carrier.name

    @property
    def address(self) -> Endpoint:
        """Where it listens; known once started."""
        return self._public_port.address

    @property
    def admin_address(self) -> Endpoint | None:
        """Where health and metrics are, if anywhere; known once started."""
        return self._admin_address

    async def start(self) -> None:
        """Start everything, or nothing: what had started is stopped again when a part cannot.

        Health first, so that an operator sees a node that waits. Then the public port, for its number is part of what a
        registry is told. Then the registry; ready when it has said how grants are verified. While none can be reached
        this waits.

        Raises ListenError.
        """
        try:
            if self._admin is not None and self.config.admin_listen is not None:
                self._admin_address = await self._admin.start(_open_admin_sockets(self.config.admin_listen))
            self._public_port.listen()
            self._link.start()
            self._port_reservation.start()
            self._tasks.spawn(self._watch_certificates(), name="watch certificates")
            if self._renewal is not None:
                self._renewal.start()
            await self._cluster.known.wait()
        except BaseException:
            await self.stop()
            raise
        logger.info("node serves", extra={"listen": str(self.address), "carrier": self.carrier})

    async def stop(self) -> None:
        """Stop in order. May be called again.

        Not ready any more; the registry is told, so that no new client comes; clients are asked to attach elsewhere.
        Meanwhile, and while visits in progress finish, visitors that still arrive are served or sent on to where their
        tunnel is now, within the grace period. Then nobody is taken in; sessions end, then the stream with the
        registry, which forgets this node; then whatever is left of connections; health last.
        """
        self._report.stopping = True
        self._link.tell_state()
        self._sessions.ask_to_leave("this node is stopping")
        await self._left()
        await self._public_port.close()
        self._raw_ports.close()
        await self._raw_visitors.close()
        await self._greeter.close()
        self._sessions.close()
        await self._addresses.close()
        await self._port_reservation.close()
        await self._visits.close()
        await self._lookup.close()
        if self._renewal is not None:
            await self._renewal.close()
        await self._probing.close()
        await self._link.close()
        await self._inbound_lanes.close()
        await self._peers.close()
        await self._tasks.close()
        await self._carrier.close(linger=_FLUSHED_WITHIN)
        if self._admin is not None:
            await self._admin.close()

    def reload_certificates(self) -> None:
        """Read the files again, changed or not."""
        if self._certificates.reload():
            self._peers.certificates_changed()

    def not_ready(self) -> str:
        """Why nobody may come now; empty when all may."""
        if self._report.stopping:
            return "stopping"
        return "" if self._cluster.known.is_set() else "no registry was reached yet"

    def metrics(self) -> bytes:
        """The page that Prometheus scrapes."""
        return exposition(self._report.counts())

    def _loaded(self) -> LoadedCertificates:
        return self._certificates.loaded

    async def _elsewhere(self, label: str, region: str, not_at: Destination, gone: bool) -> Destination | None:
        return await self._lookup.elsewhere(label, region, not_at=not_at, gone=gone)

    def _bound_elsewhere(self, label: str, epoch: int) -> None:
        failure = Failure(code=FAILURE_CODE_EPOCH, message="the tunnel was bound again at another node")
        self._table.evict(label, epoch, failure)

    async def _watch_certificates(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self._certificates.reload_if_changed():
                self._peers.certificates_changed()

    async def _left(self) -> None:
        """Wait until clients and visits have gone, for the grace period at the most."""
        try:
            async with asyncio.timeout(self.config.limits.stop_grace):
                if len(self._peers):  # a client that has nowhere else to go stays to the end
                    await self._sessions.over()
                await self._visits.over()
                await self._public_port.stop_listening(within=_HANDED_ON_WITHIN)
                for tunnel in self._table.all_live():
                    if tunnel.raw is not None:
                        tunnel.raw.pause()
                await self._visits.over()
        except TimeoutError:
            logger.info("visits are cut: the grace period is over", extra={"visits": self._visits.running})

    def _ordered(self, state: "NodeState.ValueType") -> None:
        """What operators want of this node."""
        if state == self._report.order or self._report.stopping:
            return
        logger.info("ordered", extra={"state": NodeState.Name(state)})
        self._report.order = state
        if state == NODE_STATE_DRAINING:
            self._sessions.ask_to_leave("this node is being drained")
        elif state == NODE_STATE_CORDONED:
            self._sessions.refuse_new()
        else:
            self._sessions.accept_new()
        self._link.tell_state()


def _admin_http(node: Node) -> "AdminHttp":
    from portway_runtime.admin_http import METRICS, AdminHttp, Page, health_page

    return AdminHttp(
        {
            "/healthz": lambda: health_page(""),
            "/readyz": lambda: health_page(node.not_ready(), "ready"),
            "/metrics": lambda: Page(node.metrics(), content_type=METRICS),
        }
    )


def _open_admin_sockets(endpoint: Endpoint) -> list[socket.socket]:
    try:
        return open_sockets(endpoint)
    except ListenError as error:
        raise ListenError(f"--admin-listen: {error}") from error
