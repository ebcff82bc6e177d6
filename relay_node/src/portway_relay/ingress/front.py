"""The public port: each connection is peeked at, routed, and handed to whoever it is for.

Here: the order of these steps and what each outcome means for the socket. Not here: the decision (route.py), visits
(visits.py), client lanes (sessions/).
"""

import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final

from portway_proto.carry.contract import Carrier
from portway_proto.carry.errors import TlsSettingsError

from portway_relay.clock import Monotonic
from portway_relay.config import Endpoint, NodeConfig
from portway_relay.ingress.client_hello import Invalid, Parsed
from portway_relay.ingress.listener import Listener, open_sockets, peer_of
from portway_relay.ingress.peek import Peek
from portway_relay.ingress.plain_http import use_https
from portway_relay.ingress.rate import AddressRate
from portway_relay.ingress.route import ClientLane, PlainHttp, Refuse, Visitor, route
from portway_relay.tunnels.tunnel import Tunnel

logger = logging.getLogger(__name__)

# Of what was peeked at: taken before a refusal, or the kernel would answer the unread bytes with a reset that
# overtakes the alert.
_DRAINED: Final = 64 * 1024


class Front:
    """Everything that arrives at the public port."""

    def __init__(
        self,
        config: NodeConfig,
        carrier: Carrier,
        *,
        tunnel_of: Callable[[str], Tunnel | None],
        visitor: Callable[[socket.socket, Endpoint, Tunnel, str | None], None],
        client_lane: Callable[[socket.socket], None],
        clock: Monotonic,
    ) -> None:
        """`visitor` and `client_lane` own the sockets they are called with."""
        self._config = config
        self._carrier = carrier
        self._tunnel_of = tunnel_of
        self._visitor = visitor
        self._client_lane = client_lane
        limits = config.limits
        self._rate = AddressRate(limits.connections_per_second, limits.connection_burst, clock)
        self._peek = Peek(self._seen, time_limit=limits.hello_time, most=limits.max_half_open)
        self._listener: Listener | None = None
        self.accepted = 0
        self.turned_away: Counter[str] = Counter()  # by reason
        self.address = Endpoint("", 0)

    @property
    def half_open(self) -> int:
        return len(self._peek)

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

    def stop_listening(self) -> None:
        """Accept no more and drop what has said too little; what was handed on is not touched."""
        if self._listener is not None:
            self._listener.close()
        self._peek.close()

    def _accept(self, sock: socket.socket, peer: Endpoint) -> None:
        self.accepted += 1
        if not self._rate.take(peer.host):
            self.turned_away["rate"] += 1
            sock.close()
            return
        self._peek.add(sock)

    def _seen(self, sock: socket.socket, hello: Parsed | Invalid, first_bytes: bytes) -> None:
        config = self._config
        decision = route(
            hello, first_bytes, zone=config.zone, server_name=config.server_name, tunnel_of=self._tunnel_of
        )
        try:
            if isinstance(decision, Visitor):
                self._visitor(sock, peer_of(sock.getpeername()), decision.tunnel, decision.alpn)
            elif isinstance(decision, ClientLane):
                self._client_lane(sock)
            elif isinstance(decision, PlainHttp):
                self.turned_away["plain_http"] += 1
                answer = use_https(first_bytes, config.public_port or self.address.port)
                self._carrier.finish(self._carrier.accept(sock, None), answer)
            else:
                self._refuse(sock, decision)
        except TlsSettingsError as error:
            logger.error("a certificate cannot be used for TLS: %s", error)
        except OSError:
            # It was gone before it could be named.
            sock.close()

    def _refuse(self, sock: socket.socket, decision: Refuse) -> None:
        self.turned_away[decision.alert.name.lower()] += 1
        try:
            sock.recv(_DRAINED)
            sock.send(decision.alert.record)
        except OSError:
            pass
        sock.close()
