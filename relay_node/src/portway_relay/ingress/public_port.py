"""The public port: each connection is peeked at, decided about, and handed to its handler.

Here: the order of these steps, their limits, and what each decision does with the socket. Not here: the decision
(decision.py), where a label is (routing/lookup.py), visits (visits.py), lanes (sessions/, mesh/).
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVarTuple

from portway_carrier.contract import Carrier
from portway_carrier.errors import TlsSettingsError
from portway_carrier.values import ServerTls
from portway_runtime.arrivals import Arrivals
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.parse_results import Invalid
from portway_runtime.rates import AddressRate
from portway_runtime.shares import PrefixQueue, PrefixShares
from portway_runtime.tasks import Tasks
from portway_runtime.tls_choices import Group

from portway_relay.certificates import LoadedCertificates
from portway_relay.config import NodeConfig
from portway_relay.ingress.decision import (
    Alert,
    ClientLane,
    Decision,
    ForRegistry,
    PeerLane,
    PlainHttp,
    Visitor,
    choose_alpn,
    decide,
)
from portway_relay.ingress.peek import FirstMessage, read_hello
from portway_relay.net.node_address import NodeAddress
from portway_relay.net.plain_http import Request
from portway_relay.routing.lookup import Destination, DestinationFinder
from portway_relay.visits import VisitedName

logger = logging.getLogger(__name__)

_Arguments = TypeVarTuple("_Arguments")

# Bytes that are read before a refusal. Closing a socket with unread bytes sends a reset, which overtakes the alert.
_DRAINED: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ConnectionHandlers:
    """What takes connections over. Each owns the socket that it is called with, and may raise TlsSettingsError. It
    calls its last argument when the handshake has been completed.

    visitor: called with socket, peer, destination, the host name, and the TLS settings for the handshake.
    client_lane, peer_lane: called with socket, peer, and the group for the key exchange.
    plain_visitor: called with socket, peer, and a request without TLS. There is no handshake.
    registry: called with socket and peer of a connection for the registry. There is no handshake here. False when it
        has no place for it, and then it does not own the socket.
    """

    visitor: Callable[[socket.socket, Endpoint, Destination, VisitedName, ServerTls, Callable[[], None]], None]
    client_lane: Callable[[socket.socket, Endpoint, Group, Callable[[], None]], None]
    peer_lane: Callable[[socket.socket, Endpoint, Group, Callable[[], None]], None]
    plain_visitor: Callable[[socket.socket, Endpoint, Request], None]
    registry: Callable[[socket.socket, Endpoint], bool]


@dataclass(slots=True, eq=False)
class _Decided:
    """A connection that waits to be acted upon."""

    sock: socket.socket
    peer: Endpoint
    decision: Decision


@dataclass(slots=True)
class _TurnQueue:
    """Decided connections. `budget` more of them are acted upon in this turn of the loop, the others in later turns."""

    budget: int
    queue: PrefixQueue[_Decided] = field(default_factory=PrefixQueue)


class PublicPort:
    """Everything that arrives at the public port, until it is handed over or refused."""

    def __init__(
        self,
        config: NodeConfig,
        address: NodeAddress,
        carrier: Carrier,
        certificates: Callable[[], LoadedCertificates],
        finder: DestinationFinder,
        handlers: ConnectionHandlers,
        *,
        rate: AddressRate,
        handshakes: PrefixShares,
        has_just_started: Callable[[], bool],
        is_memory_scarce: Callable[[], bool],
        lacking: Callable[[], Container[str]],
        registry_name: Callable[[], str],
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`rate` limits new connections of one address, `handshakes` those that peers begin and do not complete.
        Names that are unknown while the node has just started are no guesses, and wait in the finder. While memory is
        scarce no visitor is taken. `lacking` gives the zones of the cluster without a certificate, `registry_name` the
        name for which connections can be passed on to a registry, "" for none."""
        self._config = config
        self.address = address
        self._carrier = carrier
        self._certificates = certificates
        self._finder = finder
        self._handlers = handlers
        limits = config.limits
        self._rate = rate
        self._handshakes = handshakes
        self._has_just_started = has_just_started
        self._is_memory_scarce = is_memory_scarce
        self._lacking = lacking
        self._registry_name = registry_name
        # Places of connections that wait for their turn, and of those whose label is looked up.
        self._queued = PrefixShares(limits.max_half_open, clock)
        self._finding = PrefixShares(limits.max_half_open, clock)
        self._unknown_names = AddressRate(limits.unknown_names_per_second, limits.unknown_name_burst, clock)
        self.arrivals = Arrivals[FirstMessage](
            "public",
            read_hello,
            self._peeked,
            self._refusal,
            balancers=config.proxy_protocol_from,
            limits=config.arrival_limits,
            clock=clock,
        )
        self._visitors = _TurnQueue(limits.hellos_per_turn)
        self._lanes = _TurnQueue(limits.hellos_per_turn)
        self._next_turn: asyncio.Handle | None = None
        self._tasks = Tasks("public port", on_failure)

    @property
    def half_open(self) -> int:
        """Connections whose handler is not known yet, or that wait for their turn."""
        decided = len(self._visitors.queue) + len(self._lanes.queue)
        return self.arrivals.half_open + decided + len(self._tasks)

    def listen(self) -> None:
        """Begin to accept. Raises ListenError."""
        self.arrivals.listen(self.address.open())

    async def over(self) -> None:
        """Wait until all connections whose ClientHello has come are handed over; those whose label is looked up take
        seconds."""
        while self._next_turn is not None:  # noqa: ASYNC110 - a turn or two
            await asyncio.sleep(0)
        await self._tasks.over()

    async def close(self) -> None:
        """Accept no more, and close the connections that are not handed over."""
        self.arrivals.close()
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        for turns in (self._visitors, self._lanes):
            while turns.queue:
                turns.queue.pop().sock.close()
        await self._tasks.close()

    def _refusal(self, host: str) -> str:
        if not self._rate.take(host):
            return "rate"
        return "" if self._handshakes.has_room(host) else "handshakes"

    def _peeked(self, sock: socket.socket, peer: Endpoint, hello: FirstMessage, first_bytes: bytes) -> None:
        """Decide, and act in this turn of the loop or a later one.

        At most `hellos_per_turn` connections of each queue are acted upon in one turn: each may begin a handshake, and
        visits in progress must move in between. Visitors and lanes queue apart, as thousands of lanes may come at once,
        and in each queue prefixes of addresses take turns.
        """
        if isinstance(hello, Invalid) and self.arrivals.is_proxied(first_bytes, peer):
            self._refuse(sock, Alert.DECODE_ERROR, "proxy_header")
            return
        zones, server_name = self._certificates().zones.keys(), self._config.server_name
        decision = decide(
            hello,
            zones=zones,
            server_name=server_name,
            lacking=self._lacking(),
            registry_name=self._registry_name(),
        )
        if isinstance(decision, ForRegistry):  # it waits for turns of its own
            self._act(sock, peer, decision)
            return
        turns = self._lanes if isinstance(decision, ClientLane | PeerLane) else self._visitors
        if self._next_turn is None:
            self._next_turn = asyncio.get_running_loop().call_soon(self._turn)
        if turns.budget and not turns.queue:
            turns.budget -= 1
            self._act(sock, peer, decision)
        elif self._queued.take(peer.host):
            turns.queue.push(_Decided(sock, peer, decision), peer.host)
        else:
            self.arrivals.turn_away(sock, "queue")

    def _turn(self) -> None:
        self._next_turn = None
        for turns in (self._visitors, self._lanes):
            turns.budget = self._config.limits.hellos_per_turn
            if turns.queue and self._next_turn is None:
                self._next_turn = asyncio.get_running_loop().call_soon(self._turn)
            while turns.queue and turns.budget:
                turns.budget -= 1
                one = turns.queue.pop()
                self._queued.give_back(one.peer.host)
                self._act(one.sock, one.peer, one.decision)

    def _act(self, sock: socket.socket, peer: Endpoint, decision: Decision) -> None:
        if isinstance(decision, Visitor):
            self._visitor(sock, peer, decision)
        elif isinstance(decision, ClientLane):
            self._hand_over(self._handlers.client_lane, sock, peer, decision.group)
        elif isinstance(decision, PeerLane):
            self._hand_over(self._handlers.peer_lane, sock, peer, decision.group)
        elif isinstance(decision, ForRegistry):
            if not self._handlers.registry(sock, peer):
                self._refuse(sock, Alert.INTERNAL_ERROR, "registry")
        elif isinstance(decision, PlainHttp):
            self._handlers.plain_visitor(sock, peer, decision.request)
        elif decision.lacking:
            about = {"names": f"*.{decision.lacking}"}
            logger.warning("visitors of a region are refused: there is no certificate for its names", extra=about)
            self._refuse(sock, decision.alert, "no_certificate")
        else:
            self._refuse(sock, decision.alert)

    def _visitor(self, sock: socket.socket, peer: Endpoint, visitor: Visitor) -> None:
        if self._is_memory_scarce():
            self._refuse(sock, Alert.INTERNAL_ERROR, "memory")
            return
        destination = self._finder.known(visitor.label)
        if destination is not None:
            self._visit(sock, peer, visitor, destination)
            return
        is_counted = not self._has_just_started()
        if (is_counted and not self._unknown_names.take(peer.host)) or not self._finding.take(peer.host):
            self._refuse(sock, Alert.UNRECOGNIZED_NAME, "not_looked_up")
            return
        finding = self._tasks.spawn(
            self._find(sock, peer, visitor, is_counted=is_counted), name="find a label", on_cut=sock.close
        )
        finding.add_done_callback(lambda _: self._finding.give_back(peer.host))

    async def _find(self, sock: socket.socket, peer: Endpoint, visitor: Visitor, *, is_counted: bool) -> None:
        destination = await self._finder.find(visitor.label, self._region(visitor), peer.host)
        if destination is None:
            self._refuse(sock, Alert.UNRECOGNIZED_NAME)
            return
        if is_counted:
            self._unknown_names.give_back(peer.host)  # the name was not a guess
        self._visit(sock, peer, visitor, destination)

    def _visit(self, sock: socket.socket, peer: Endpoint, visitor: Visitor, destination: Destination) -> None:
        if destination.full:
            self._refuse(sock, Alert.INTERNAL_ERROR)
            return
        certificates = self._certificates()
        if visitor.zone not in certificates.zones:
            # The certificate was replaced while the label was looked up.
            self._refuse(sock, Alert.UNRECOGNIZED_NAME)
            return
        alpn = choose_alpn(visitor.offered, h2_enabled=destination.h2_enabled)
        tls = certificates.visitor_tls(visitor.zone, alpn, visitor.group)
        name = VisitedName(f"{visitor.label}.{visitor.zone}", self._region(visitor))
        self._hand_over(self._handlers.visitor, sock, peer, destination, name, tls)

    def _region(self, visitor: Visitor) -> str:
        return visitor.zone.removesuffix(f".{self._config.domain}")

    def _hand_over(
        self,
        handler: Callable[[socket.socket, Endpoint, *_Arguments, Callable[[], None]], None],
        sock: socket.socket,
        peer: Endpoint,
        *arguments: *_Arguments,
    ) -> None:
        """Call a handler, which begins a handshake, unless the peer's prefixes have left too many unfinished. A
        certificate that cannot be used costs this one connection, which the carrier has closed."""
        if not self._handshakes.take(peer.host):
            self.arrivals.turn_away(sock, "handshakes")
            return
        try:
            handler(sock, peer, *arguments, partial(self._handshakes.give_back, peer.host))
        except TlsSettingsError as error:
            logger.error("a certificate cannot be used for TLS: %s", error)

    def _refuse(self, sock: socket.socket, alert: Alert, reason: str = "") -> None:
        """Send an alert and close. `reason` is what the rejection is counted as, the alert's name by default."""
        try:
            sock.recv(_DRAINED)
            sock.send(alert.record)
        except OSError:
            pass
        self.arrivals.turn_away(sock, reason or alert.name.lower())
