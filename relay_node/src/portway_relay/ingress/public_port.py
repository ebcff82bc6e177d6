"""The public port: each connection is peeked at, routed, and handed to whoever it is for.

Here: the order of these steps and what each outcome means for the socket. Not here: the decision (route.py), where a
label is (mesh/lookup.py), visits (tunnels/visits.py), lanes (sessions/, mesh/).
"""

import asyncio
import logging
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from portway_carrier.contract import Carrier
from portway_carrier.errors import TlsSettingsError
from portway_carrier.values import ServerTls
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.listening import open_sockets
from portway_runtime.rates import AddressRate
from portway_runtime.tasks import Tasks

from portway_relay.certificates import LoadedCertificates
from portway_relay.config import NodeConfig
from portway_relay.ingress.client_hello import Invalid, Parsed
from portway_relay.ingress.decision import Alert, ClientLane, Decision, Named, PeerLane, PlainHttp, choose_alpn, route
from portway_relay.ingress.peek import Peek
from portway_relay.net.listener import Listener
from portway_relay.net.plain_http import use_https
from portway_relay.visits import Destination

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
class ConnectionHandlers:
    """Who connections are for. Each owns the socket that it is called with, and raises TlsSettingsError.

    A visitor comes with its address, where it goes, the region in the name, and what TLS is to show it.
    """

    visitor: Callable[[socket.socket, Endpoint, Destination, str, ServerTls], None]
    client_lane: Callable[[socket.socket, Endpoint], None]
    peer_lane: Callable[[socket.socket, Endpoint], None]


@dataclass(slots=True)
class _Line:
    """Connections that are decided: how many more are acted upon in this turn of the loop, and those for later ones."""

    left: int
    later: deque[tuple[socket.socket, Endpoint, Decision, bytes]] = field(default_factory=deque)


class PublicPort:
    """Everything that arrives at the public port."""

    def __init__(
        self,
        config: NodeConfig,
        carrier: Carrier,
        certificates: Callable[[], LoadedCertificates],
        finder: Finder,
        takers: ConnectionHandlers,
        *,
        rate: AddressRate,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`rate` is asked for each connection's address."""
        self._config = config
        self._carrier = carrier
        self._certificates = certificates
        self._finder = finder
        self._takers = takers
        limits = config.limits
        self._rate = rate
        self._guesses = AddressRate(limits.unknown_names_per_second, limits.unknown_name_burst, clock)
        self._peek = Peek(
            self._seen,
            time_limit=limits.hello_time,
            most=limits.max_half_open,
            most_of_one=limits.max_half_open_per_address,
            clock=clock,
        )
        self._visitors = _Line(limits.hellos_per_turn)
        self._lanes = _Line(limits.hellos_per_turn)
        self._turn: asyncio.Handle | None = None
        self._tasks = Tasks("front", on_failure)
        self._listener: Listener | None = None
        self.accepted = 0
        self.rejected: Counter[str] = Counter()  # by reason
        self.address = Endpoint("", 0)

    @property
    def half_open(self) -> int:
        """Connections of which it is not known yet where they go."""
        return len(self._peek) + len(self._visitors.later) + len(self._lanes.later) + len(self._tasks)

    @property
    def evicted(self) -> int:
        """Connections whose ClientHello was awaited, and that made room for others."""
        return self._peek.evicted

    @property
    def pauses(self) -> int:
        """How often accepting rested for want of descriptors."""
        return self._listener.pauses if self._listener is not None else 0

    def listen(self) -> None:
        """Begin to accept. Raises ListenError."""
        sockets = open_sockets(self._config.listen)
        name = sockets[0].getsockname()
        self.address = Endpoint(name[0], name[1])
        self._listener = Listener(sockets, self._accept, batch=self._config.limits.accepts_per_turn)

    async def stop_listening(self, *, within: float) -> None:
        """Accept no more, and wait `within` seconds at the most until what was accepted is handed on."""
        if self._listener is not None:
            self._listener.finish()
        try:
            async with asyncio.timeout(within):
                await self._peek.over()
                while self._turn is not None:  # noqa: ASYNC110 - a turn or two
                    await asyncio.sleep(0)
                await self._tasks.over()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Accept no more and drop what is not handed on yet; what was is not touched."""
        if self._listener is not None:
            self._listener.close()
        self._peek.close()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        for line in (self._visitors, self._lanes):
            while line.later:
                line.later.popleft()[0].close()
        await self._tasks.close()

    def _accept(self, sock: socket.socket, peer: Endpoint) -> None:
        self.accepted += 1
        if not self._rate.take(peer.host):
            self.rejected["rate"] += 1
            sock.close()
            return
        self._peek.add(sock, peer)

    def _seen(self, sock: socket.socket, peer: Endpoint, hello: Parsed | Invalid, first_bytes: bytes) -> None:
        """So many in one turn of the loop, the others in the next ones: what is begun for them costs a handshake each,
        and visits that run move in between. Visitors do not wait behind lanes: of those thousands may come at once."""
        config = self._config
        decision = route(hello, first_bytes, zones=self._certificates().zones.keys(), server_name=config.server_name)
        line = self._lanes if isinstance(decision, ClientLane | PeerLane) else self._visitors
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._next_turn)
        if line.left and not line.later:
            line.left -= 1
            self._act(sock, peer, decision, first_bytes)
        else:
            line.later.append((sock, peer, decision, first_bytes))

    def _next_turn(self) -> None:
        self._turn = None
        for line in (self._visitors, self._lanes):
            line.left = self._config.limits.hellos_per_turn
            if line.later and self._turn is None:
                self._turn = asyncio.get_running_loop().call_soon(self._next_turn)
            while line.later and line.left:
                line.left -= 1
                self._act(*line.later.popleft())

    def _act(self, sock: socket.socket, peer: Endpoint, decision: Decision, first_bytes: bytes) -> None:
        config = self._config
        try:
            if isinstance(decision, Named):
                self._name(sock, peer, decision)
            elif isinstance(decision, ClientLane):
                self._takers.client_lane(sock, peer)
            elif isinstance(decision, PeerLane):
                self._takers.peer_lane(sock, peer)
            elif isinstance(decision, PlainHttp):
                self.rejected["plain_http"] += 1
                answer = use_https(first_bytes, config.public_port or self.address.port)
                self._carrier.finish(self._carrier.accept(sock, None), answer)
            else:
                self._refuse(sock, decision.alert)
        except TlsSettingsError as error:
            logger.error("a certificate cannot be used for TLS: %s", error)

    def _name(self, sock: socket.socket, peer: Endpoint, name: Named) -> None:
        destination = self._finder.known(name.label, self._region(name))
        if destination is not None:
            self._visit(sock, peer, name, destination)
        elif len(self._tasks) >= self._config.limits.max_half_open or not self._guesses.take(peer.host):
            self._refuse(sock, Alert.UNRECOGNIZED_NAME, "not_looked_up")
        else:
            self._tasks.spawn(self._find(sock, peer, name), name="find a label", on_cut=sock.close)

    async def _find(self, sock: socket.socket, peer: Endpoint, name: Named) -> None:
        destination = await self._finder.find(name.label, self._region(name))
        if destination is None:
            self._refuse(sock, Alert.UNRECOGNIZED_NAME)
            return
        self._guesses.give_back(peer.host)  # it was no guess
        try:
            self._visit(sock, peer, name, destination)
        except TlsSettingsError as error:
            logger.error("a certificate cannot be used for TLS: %s", error)

    def _visit(self, sock: socket.socket, peer: Endpoint, name: Named, destination: VisitedDestination) -> None:
        if destination.full:
            self._refuse(sock, Alert.INTERNAL_ERROR)
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

    def _refuse(self, sock: socket.socket, alert: Alert, reason: str = "") -> None:
        self.rejected[reason or alert.name.lower()] += 1
        try:
            sock.recv(_DRAINED)
            sock.send(alert.record)
        except OSError:
            pass
        sock.close()
