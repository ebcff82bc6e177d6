"""The public port: each connection is peeked at, routed, and handed to whoever it is for.

Here: the order of these steps and what each outcome means for the socket. Not here: the decision (route.py), where a
label is (mesh/lookup.py), visits (tunnels/visits.py), lanes (sessions/, mesh/).
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from portway_proto.carry.contract import Carrier, ServerTls
from portway_proto.carry.errors import TlsSettingsError
from portway_proto.carry.tasks import Tasks

from portway_relay.certificates import LoadedCertificates
from portway_relay.clock import Monotonic
from portway_relay.config import Endpoint, NodeConfig
from portway_relay.ingress.client_hello import Invalid, Parsed
from portway_relay.ingress.listener import Listener, open_sockets, peer_of
from portway_relay.ingress.peek import Peek
from portway_relay.ingress.plain_http import use_https
from portway_relay.ingress.rate import AddressRate
from portway_relay.ingress.route import Alert, ClientLane, Named, PeerLane, PlainHttp, choose_alpn, route
from portway_relay.tunnels.visits import Destination

logger = logging.getLogger(__name__)

# Of what was peeked at: taken before a refusal, or the kernel would answer the unread bytes with a reset that
# overtakes the alert.
_DRAINED: Final = 64 * 1024


class VisitedDestination(Destination, Protocol):
    """What must be known of a destination before the handshake."""

    @property
    def h2_enabled(self) -> bool: ...


class Finder(Protocol):
    """Who knows where a label is."""

    def known(self, label: str, region: str) -> VisitedDestination | None: ...

    async def find(self, label: str, region: str) -> VisitedDestination | None: ...


@dataclass(frozen=True, slots=True)
class Takers:
    """Who connections are for. Each owns the socket that it is called with, and raises TlsSettingsError.

    A visitor comes with its address, where it goes, the region in the name, and what TLS is to show it.
    """

    visitor: Callable[[socket.socket, Endpoint, Destination, str, ServerTls], None]
    client_lane: Callable[[socket.socket], None]
    peer_lane: Callable[[socket.socket], None]


class Front:
    """Everything that arrives at the public port."""

    def __init__(
        self,
        config: NodeConfig,
        carrier: Carrier,
        certificates: Callable[[], LoadedCertificates],
        finder: Finder,
        takers: Takers,
        *,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        self._carrier = carrier
        self._certificates = certificates
        self._finder = finder
        self._takers = takers
        limits = config.limits
        self._rate = AddressRate(limits.connections_per_second, limits.connection_burst, clock)
        self._peek = Peek(self._seen, time_limit=limits.hello_time, most=limits.max_half_open)
        self._tasks = Tasks("front", on_failure)
        self._listener: Listener | None = None
        self.accepted = 0
        self.turned_away: Counter[str] = Counter()  # by reason
        self.address = Endpoint("", 0)

    @property
    def half_open(self) -> int:
        """Connections of which it is not known yet where they go."""
        return len(self._peek) + len(self._tasks)

    @property
    def pauses(self) -> int:
        """How often accepting rested for want of descriptors."""
        return self._listener.pauses if self._listener is not None else 0

    def listen(self) -> None:
        """Begin to accept. Raises ListenError."""
        sockets = open_sockets(self._config.listen)
        name = sockets[0].getsockname()
        self.address = Endpoint(name[0], name[1])
        self._listener = Listener(sockets, self._accept)

    async def stop_listening(self, *, within: float) -> None:
        """Accept no more, and wait `within` seconds at the most until what was accepted is handed on."""
        if self._listener is not None:
            self._listener.finish()
        try:
            async with asyncio.timeout(within):
                await self._peek.over()
                await self._tasks.over()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Accept no more and drop what is not handed on yet; what was is not touched."""
        if self._listener is not None:
            self._listener.close()
        self._peek.close()
        await self._tasks.close()

    def _accept(self, sock: socket.socket, peer: Endpoint) -> None:
        self.accepted += 1
        if not self._rate.take(peer.host):
            self.turned_away["rate"] += 1
            sock.close()
            return
        self._peek.add(sock)

    def _seen(self, sock: socket.socket, hello: Parsed | Invalid, first_bytes: bytes) -> None:
        config = self._config
        decision = route(hello, first_bytes, zones=self._certificates().zones.keys(), server_name=config.server_name)
        try:
            if isinstance(decision, Named):
                self._name(sock, decision)
            elif isinstance(decision, ClientLane):
                self._takers.client_lane(sock)
            elif isinstance(decision, PeerLane):
                self._takers.peer_lane(sock)
            elif isinstance(decision, PlainHttp):
                self.turned_away["plain_http"] += 1
                answer = use_https(first_bytes, config.public_port or self.address.port)
                self._carrier.finish(self._carrier.accept(sock, None), answer)
            else:
                self._refuse(sock, decision.alert)
        except TlsSettingsError as error:
            logger.error("a certificate cannot be used for TLS: %s", error)

    def _name(self, sock: socket.socket, name: Named) -> None:
        destination = self._finder.known(name.label, self._region(name))
        if destination is not None:
            self._visit(sock, name, destination)
        elif len(self._tasks) >= self._config.limits.max_half_open:
            self._refuse(sock, Alert.UNRECOGNIZED_NAME)
        else:
            finding = self._tasks.spawn(self._find(sock, name), name="find a label")
            # Not in the task itself: one that is cancelled before its first step never runs.
            finding.add_done_callback(lambda task: sock.close() if task.cancelled() or task.exception() else None)

    async def _find(self, sock: socket.socket, name: Named) -> None:
        destination = await self._finder.find(name.label, self._region(name))
        if destination is None:
            self._refuse(sock, Alert.UNRECOGNIZED_NAME)
            return
        try:
            self._visit(sock, name, destination)
        except TlsSettingsError as error:
            logger.error("a certificate cannot be used for TLS: %s", error)

    def _visit(self, sock: socket.socket, name: Named, destination: VisitedDestination) -> None:
        if destination.full:
            self._refuse(sock, Alert.INTERNAL_ERROR)
            return
        try:
            peer = peer_of(sock.getpeername())
        except OSError:
            # It was gone before it could be named.
            sock.close()
            return
        alpn = choose_alpn(name.offered, h2_enabled=destination.h2_enabled)
        certificates = self._certificates()
        if name.zone not in certificates.zones:
            # It was replaced while the label was looked up.
            self._refuse(sock, Alert.UNRECOGNIZED_NAME)
            return
        tls = certificates.visitor_tls(name.zone, alpn)
        self._takers.visitor(sock, peer, destination, self._region(name), tls)

    def _region(self, name: Named) -> str:
        return name.zone.removesuffix(f".{self._config.domain}")

    def _refuse(self, sock: socket.socket, alert: Alert) -> None:
        self.turned_away[alert.name.lower()] += 1
        try:
            sock.recv(_DRAINED)
            sock.send(alert.record)
        except OSError:
            pass
        sock.close()
