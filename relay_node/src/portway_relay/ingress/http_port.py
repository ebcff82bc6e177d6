"""The plain HTTP port, which only redirects: port 80 beside a public port 443, or where the configuration says.

Here: whether and where it listens. Not here: accepting (portway_runtime.arrivals), the answers (plain_visitors.py).
"""

import logging
import socket

from portway_runtime.arrivals import Arrivals
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.listening import open_sockets
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
        self.arrivals = Arrivals[Request | None](
            "plain HTTP",
            read_request,
            self._peeked,
            self._refusal,
            balancers=config.proxy_protocol_from,
            limits=config.arrival_limits,
            clock=clock,
        )
        self.listening: Endpoint | None = None  # None while it is closed

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
        self.arrivals.listen(sockets)

    async def close(self) -> None:
        """Accept no more, and close the connections that are not answered."""
        self.arrivals.close()

    def _refusal(self, host: str) -> str:
        return "" if self._rate.take(host) else "rate"

    def _peeked(self, sock: socket.socket, peer: Endpoint, request: Request | None, first_bytes: bytes) -> None:
        if request is None:
            is_proxied = self.arrivals.is_proxied(first_bytes, peer)
            self.arrivals.turn_away(sock, "proxy_header" if is_proxied else "not_http")
        else:
            self._visitors.answer(sock, peer, request)
