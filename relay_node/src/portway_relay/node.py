"""A relay node: the parts that know all others, and the order in which it starts and stops.

Here: composition alone. Not here: the other parts (parts.py, serving_parts.py), the wait before the stop
(lifecycle.py).
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from portway_proto.v1.mesh_pb2 import DnsRecords, RegistryFronts
from portway_runtime import clocks
from portway_runtime.address_scopes import expected_scopes
from portway_runtime.clocks import Monotonic, WallClock
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.listening import open_sockets
from portway_runtime.tasks import Tasks

from portway_relay.config import NodeConfig
from portway_relay.dns.records import RecordLists
from portway_relay.errors import NodeRemoved
from portway_relay.lifecycle import Lifecycle
from portway_relay.membership.renewal import renewal_for
from portway_relay.metrics import exposition
from portway_relay.parts import build_base, build_raw_ports, build_routing
from portway_relay.registry_link.kept_messages import KeptMessages
from portway_relay.registry_link.message_handler import MessageHandler
from portway_relay.registry_link.probing import AddressProber
from portway_relay.registry_link.registries import Registries
from portway_relay.registry_link.stream import RegistryStream
from portway_relay.report import Report
from portway_relay.serving_parts import build_dns, build_serving

if TYPE_CHECKING:  # aiohttp takes 0.2 s to import, and most nodes of a test need none of it
    from portway_runtime.admin_http import AdminHttp

logger = logging.getLogger(__name__)

# Seconds for the last bytes of the last visits to leave: a peer that reads has them in a round trip or two.
_FLUSH_TIME: Final = 0.5
# Seconds for which a node that knows what registries said before its start waits for one: a start in which registries
# take part is ready within one.
_REGISTRY_WITHIN: Final = 5.0


class Node:
    """One node. Needs a running loop; several may run in one process."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        on_failure: Callable[[BaseException], None] | None = None,
        monotonic: Monotonic = clocks.monotonic,
        wall_clock: WallClock = clocks.wall_clock,
        elapsed: Monotonic = clocks.counting_sleep,
    ) -> None:
        """Read the certificates and make all parts; nothing is opened or started. Raises CertificateError.

        elapsed: also counts time asleep; what clients have signed ends by it.

        on_failure: called when a background task ends that must not, and with NodeRemoved when the cluster admits this
            node no more; the node should be stopped then.
        """
        failed = on_failure or _ignore
        base = build_base(config, failed, monotonic, wall_clock, elapsed)
        routing = build_routing(base)
        raw = build_raw_ports(base, routing)
        serving = build_serving(base, routing, raw)
        self.config = config
        self._failed = failed
        self._base, self._routing, self._raw, self._serving = base, routing, raw, serving
        self._lifecycle = Lifecycle(
            serving.sessions,
            routing.peers,
            routing.visits,
            serving.passages,
            serving.public_port,
            serving.http_port,
            raw.sockets,
            raw.visitors,
            routing.outbox,
            base.certificates.serves_own_zone,
            grace=config.limits.stop_grace,
            lame_duck=config.limits.lame_duck,
        )
        self._dns = build_dns(base, routing, lambda: self._lifecycle.state)
        self._dns_lists = RecordLists()
        self._report = Report(base, routing, raw, serving, self._lifecycle, self._dns)
        own = [config.listen.host] if config.advertise is None else [config.listen.host, config.advertise.host]
        self._prober = AddressProber(
            base.carrier,
            base.certificates.current,
            routing.outbox.probed,
            expected_scopes(own),
            on_failure=failed,
        )
        self._renewal = renewal_for(
            config, routing.calls.renew_certificate, base.certificates.reload, on_failure=failed
        )
        base.certificates.subscribe(routing.outbox.state_changed)
        self._messages = MessageHandler(
            serving.grants,
            serving.sessions,
            serving.table,
            routing.peers,
            serving.inbound_lanes,
            raw.reservation,
            raw.owners,
            routing.checks,
            self._registry_reached,
            self._lifecycle.obey,
            self._prober.probe,
            self._hear_registries,
            self._removed,
            routing.outbox.state_changed,
            _ignore_authorities if self._renewal is None else self._renewal.learn_authorities,
            self._hear_dns_records,
            base.certificates.receive,
        )
        self._registries = Registries(config.registry, config.registries_file)
        self._kept = KeptMessages(self._messages, config.registry_file, wall_clock)
        self._stream = RegistryStream(
            self._registries,
            base.certificates.current,
            self._report.info,
            routing.tunnels.all_live,
            lambda: serving.sessions.tokens,
            routing.outbox,
            routing.calls,
            self._kept,
            clock=monotonic,
            wall_clock=wall_clock,
            registry_clock=base.registry_clock,
            on_failure=failed,
        )
        self._tasks = Tasks("node", failed)
        self._admin = None if config.admin_listen is None else _make_admin_http(self.not_ready, self.metrics)
        self._admin_address: Endpoint | None = None
        self._closing = AsyncExitStack()
        self._fill_closing_stack()

    @property
    def carrier(self) -> str:
        """The name of the carrier that it runs on."""
        return self._base.carrier.name

    @property
    def address(self) -> Endpoint:
        """Where it listens; the port is 0 until it has started."""
        return self._base.address.listening

    @property
    def http_address(self) -> Endpoint | None:
        """Where plain HTTP is redirected; None before the start, and when it is nowhere."""
        return self._serving.http_port.listening

    @property
    def admin_address(self) -> Endpoint | None:
        """Where health and metrics are served; None before the start and without --admin-listen."""
        return self._admin_address

    async def start(self) -> None:
        """Start everything, or nothing: when one part cannot start, those that have are stopped again.

        Health first, so that an operator sees a node that waits. Then the public port, because registration names its
        number, the port for plain HTTP, and DNS. Then the stream with a registry. The node is ready once a registry has
        sent the keys of grants, and there is a certificate for the node's own names; while none can be reached this
        waits, five seconds where the node knows what registries said before its start.

        Raises ListenError. Cancelled, it leaves nothing open.
        """
        try:
            if self._admin is not None and self.config.admin_listen is not None:
                self._admin_address = await self._admin.start(_open_admin_sockets(self.config.admin_listen))
            self._serving.public_port.listen()
            self._routing.first_seconds.begin()
            self._serving.http_port.listen()
            said_before = self._kept.stored()
            self._messages.replay(said_before)
            await self._dns.start()
            self._serving.measuring.start()
            self._stream.start()
            self._raw.reservation.start()
            self._tasks.spawn(self._kept.keep_writing(), name="keep what registries say")
            self._tasks.spawn(self._routing.memory.watch(), name="watch memory")
            self._tasks.spawn(self._base.certificates.watch(), name="watch certificates")
            self._tasks.spawn(self._base.expiry.warnings.watch(), name="watch the ends of certificates")
            self._tasks.spawn(self._serving.sessions.keep_ending_unrenewed(), name="end unrenewed sessions")
            if self._renewal is not None:
                self._renewal.start()
            await self._until_registries_said(bool(said_before))
            if not self._base.certificates.serves_own_zone.is_set():
                logger.warning(
                    "waiting for a certificate for this node's own names: registries obtain it, or --tls-cert names it",
                    extra={"names": f"*.{self.config.zone}"},
                )
                await self._base.certificates.serves_own_zone.wait()
        except BaseException:
            await self.stop()
            raise
        logger.info("node serves", extra={"listen": str(self.address), "carrier": self.carrier})

    async def stop(self) -> None:
        """Stop in order. May be called again.

        Not ready any more; the registry is notified, so that no new client comes; clients are asked to attach
        elsewhere. Meanwhile visitors that still arrive are served or forwarded to where their tunnel is now. Then all
        ports refuse new ones, and visits in progress finish, within the grace period (lifecycle.py). Sessions end, then
        the stream with the registry, which forgets this node; then the remaining connections; health last.
        """
        await self._lifecycle.leave()
        await self._closing.aclose()

    def reload_certificates(self) -> None:
        """Read the certificate files again, changed or not."""
        self._base.certificates.reload()

    def not_ready(self) -> str:
        """Why no client should come now; empty when it is ready."""
        if self._lifecycle.removed:
            return "removed from the cluster"
        if self._lifecycle.stopping:
            return "stopping"
        if not self._messages.ready.is_set():
            return "no registry was reached yet"
        return self._base.expiry.ended()

    def metrics(self) -> bytes:
        """The page that Prometheus scrapes."""
        return exposition(self._report.counts())

    @property
    def dns_addresses(self) -> tuple[Endpoint, ...]:
        """Where DNS queries are answered; empty before the start and without --dns-listen."""
        return self._dns.addresses

    async def _until_registries_said(self, before: bool) -> None:
        """Wait for a registry's word; not for long where there is one of `before` the start."""
        try:
            async with asyncio.timeout(_REGISTRY_WITHIN if before else None):
                await self._messages.ready.wait()
        except TimeoutError:
            logger.warning("serves by what registries said before the start: none is reached")
            self._messages.ready.set()

    def _hear_dns_records(self, part: DnsRecords) -> None:
        listed = self._dns_lists.hear(part)
        if listed is not None:
            self._dns.authority.use(listed)
            self._routing.outbox.dns_held(listed.version)

    def _hear_registries(self, message: RegistryFronts) -> None:
        self._registries.learn(message.mesh)
        self._serving.fronts.learn(message)

    def _registry_reached(self) -> None:
        """What nobody could be asked for before is asked for now."""
        self._routing.routes.forget_unknown()
        self._routing.first_seconds.heard()

    def _removed(self, reason: str) -> None:
        """A registry admits this node no more. Whoever runs it stops it, as for a part that failed."""
        self._lifecycle.remove()
        self._failed(NodeRemoved(reason))

    def _fill_closing_stack(self) -> None:
        """What `stop` closes, the last entry first. It is not the reverse of the order of making: the stream knows all
        other parts and is made last, and yet ends after the sessions, whose tunnels it has to withdraw."""
        routing, raw, serving = self._routing, self._raw, self._serving
        close = self._closing.push_async_callback
        if self._admin is not None:
            close(self._admin.close)
        close(self._base.carrier.close, linger=_FLUSH_TIME)
        close(self._dns.close)
        close(self._tasks.close)
        self._closing.callback(routing.checks.close)
        close(routing.verification.close)
        close(raw.siblings.close)
        close(routing.peers.close)
        close(serving.inbound_lanes.close)
        self._closing.callback(self._kept.write)
        close(self._stream.close)
        close(routing.questions.close)
        close(self._prober.close)
        if self._renewal is not None:
            close(self._renewal.close)
        close(routing.lookup.close)
        close(routing.visits.close)
        close(raw.reservation.close)
        close(serving.session_tasks.close)
        self._closing.callback(serving.sessions.close)
        close(serving.passages.close)
        close(serving.measuring.close)
        close(serving.greeter.close)
        close(raw.visitors.close)
        self._closing.callback(raw.sockets.close)
        close(serving.http_port.close)
        close(serving.public_port.close)


def _make_admin_http(not_ready: Callable[[], str], metrics: Callable[[], bytes]) -> "AdminHttp":
    from portway_runtime.admin_http import METRICS, AdminHttp, Page, health_page

    return AdminHttp(
        {
            "/healthz": lambda: health_page(""),
            "/readyz": lambda: health_page(not_ready(), "ready"),
            "/metrics": lambda: Page(metrics(), content_type=METRICS),
        }
    )


def _open_admin_sockets(endpoint: Endpoint) -> list[socket.socket]:
    try:
        return open_sockets(endpoint)
    except ListenError as error:
        raise ListenError(f"--admin-listen: {error}") from error


def _ignore_authorities(cluster_ca: bytes, issuer: str) -> None:
    """A node that was given its certificate is given its CAs as well (--cluster-ca)."""


def _ignore(error: BaseException) -> None:
    """The default `on_failure`: Tasks has logged the error."""
