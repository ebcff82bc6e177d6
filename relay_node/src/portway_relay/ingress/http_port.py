"""The plain HTTP port, which only redirects: port 80 beside a public port 443, or where the configuration says.

Here: accepting, within the limits of the public port. Not here: the answers (plain_visitors.py).
"""

import logging
import socket
from collections import Counter

from portway_runtime.balancers import BalancedConnections
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.first_bytes import FirstBytes
from portway_runtime.listener import Listener
from portway_runtime.listening import open_sockets
from portway_runtime.proxy_headers import UnexpectedProxyHeaders
from portway_runtime.rates import AddressRate

from portway_relay.config import HttpListen, NodeConfig
from portway_relay.ingress.plain_visitors import PlainVisitors
from portway_relay.net.plain_http import Request, read_request

logger = logging.getLogger(__name__)


class HttpPort:
    """Everything that arrives at the plain HTTP port, until it is answered or closed."""

    def __init__(self, config: NodeConfig, visitors: PlainVisitors, *, rate: AddressRate, clock: Monotonic) -> None:
        """`rate` limits new connections of one address, at all ports together."""
        self._config = config
        self._visitors = visitors
        self._rate = rate
        limits = config.limits
        self._peek = FirstBytes[Request | None](
            read_request,
            self._peeked,
            time_limit=limits.hello_time,
            capacity=limits.max_half_open,
            capacity_per_address=limits.max_half_open_per_address,
            clock=clock,
        )
        self._balanced = BalancedConnections(
            "plain HTTP",
            config.proxy_protocol_from,
            time_limit=limits.hello_time,
            capacity=limits.max_half_open,
            clock=clock,
            refused=self._count_rejected,
        )
        self._proxied = UnexpectedProxyHeaders("plain HTTP")
        self._listener: Listener | None = None
        self.listening: Endpoint | None = None  # None while it is closed
        self.accepted = 0
        self.rejected: Counter[str] = Counter()  # by reason

    @property
    def half_open(self) -> int:
        """Connections whose request is incomplete."""
        return len(self._balanced) + len(self._peek)

    @property
    def evicted(self) -> int:
        """Connections that were closed before their request came, to make room."""
        return self._balanced.evicted + self._peek.evicted

    @property
    def pauses(self) -> int:
        """How often accepting paused for want of descriptors."""
        return self._listener.pauses if self._listener is not None else 0

    def listen(self) -> None:
        """Begin to accept, where the configuration has an address. Raises ListenError, unless nobody has asked for this
        address: then a failure is logged, and the node goes on without."""
        at = self._config.http_address
        if at is None:
            return
        try:
            sockets = open_sockets(at)
        except ListenError as error:
            if self._config.http_listen is HttpListen.DEFAULT:
                logger.warning("plain HTTP is not redirected: %s; --http-listen off does without", error)
                return
            raise ListenError(f"--http-listen: {error}", port_taken=error.port_taken) from error
        name = sockets[0].getsockname()
        self.listening = Endpoint(name[0], name[1])
        self._listener = Listener(sockets, self._arrived, batch=self._config.limits.accepts_per_turn)

    @property
    def listeners(self) -> list[Listener]:
        """What accepts its connections; nothing where it does not listen."""
        return [] if self._listener is None else [self._listener]

    async def heard(self) -> None:
        """Wait until all that were accepted are answered."""
        await self._balanced.over()
        await self._peek.over()

    async def close(self) -> None:
        """Accept no more, and close the connections that are not answered."""
        if self._listener is not None:
            self._listener.close()
        self._balanced.close()
        self._peek.close()

    def _arrived(self, sock: socket.socket, peer: Endpoint) -> None:
        self._balanced.add(sock, peer, self._accept)

    def _count_rejected(self, reason: str) -> None:
        self.rejected[reason] += 1

    def _accept(self, sock: socket.socket, peer: Endpoint) -> None:
        self.accepted += 1
        if self._rate.take(peer.host):
            self._peek.add(sock, peer)
        else:
            self._close(sock, "rate")

    def _peeked(self, sock: socket.socket, peer: Endpoint, request: Request | None, first_bytes: bytes) -> None:
        if request is None:
            self._close(sock, "proxy_header" if self._proxied.notice(first_bytes, peer) else "not_http")
        else:
            self._visitors.answer(sock, peer, request)

    def _close(self, sock: socket.socket, reason: str) -> None:
        self.rejected[reason] += 1
        sock.close()
