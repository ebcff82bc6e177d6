"""Load balancers in front of a port: each connection of theirs begins with a PROXY header, which says whose it is.

Here: which addresses are balancers'; waiting for the header and consuming it, before anything else looks at the
connection; refusing what begins otherwise. Not here: the header's form (proxy_protocol.py).
"""

import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.first_bytes import FirstBytes
from portway_runtime.listener import Accepted
from portway_runtime.parse_results import Invalid
from portway_runtime.proxy_headers import notice_header
from portway_runtime.proxy_protocol import Parsed, parse

logger = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network

# Peers of which it is remembered whether they are balancers. To find out takes 3 µs, for each network.
_REMEMBERED: Final = 1024
# Seconds for which a connection of anybody else is looked at where the peer need not speak first. A sender of a header
# sends it with the end of TCP's handshake.
_LOOK: Final = 0.05


def parse_network(text: str) -> Network:
    """Read `10.0.0.0/8`, `2001:db8::/32`, or one address. Raises ValueError."""
    try:
        return ip_network(text.strip())
    except ValueError as error:
        raise ValueError(f"use a network such as 10.0.0.0/8 or one address; {error}") from None


class Balancers:
    """The addresses of load balancers."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(networks)
        self._known: BoundedMap[str, bool] = BoundedMap(_REMEMBERED)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, host: str) -> bool:
        """`host` is an IP address, as `listening.endpoint_of` writes it."""
        known = self._known.get(host)
        if known is None:
            address = IPv6Address(host) if ":" in host else IPv4Address(host)
            known = self._known[host] = any(address in network for network in self._networks)
        return known


class BalancedConnections:
    """The accepted connections of a port, on their way to what it does with them."""

    def __init__(
        self,
        port: str,
        networks: Sequence[Network],
        *,
        time_limit: float,
        capacity: int,
        clock: Monotonic,
        refused: Callable[[str], None],
        opaque: bool = False,
    ) -> None:
        """
        port: how it is called in the log.
        networks: where balancers are; without any, connections pass at once.
        time_limit: seconds for a header, for which at most `capacity` connections wait. Balancers have no smaller share
            of them each, because they stand for many.
        refused: called with the reason for each connection that is closed here: `no_proxy_header` or `proxy_header`.
        opaque: what follows is no protocol that would refuse a header of anybody else; so it is looked for here.
        """
        self._port = port
        self._balancers = Balancers(networks)
        self._refused = refused
        self._opaque = opaque

        def waiting(seconds: float) -> FirstBytes[Parsed | Invalid]:
            return FirstBytes(parse, time_limit=seconds, capacity=capacity, capacity_per_address=capacity, clock=clock)

        self._headers = waiting(time_limit)
        self._others = waiting(_LOOK)

    def __len__(self) -> int:
        return len(self._headers) + len(self._others)

    @property
    def evicted(self) -> int:
        """Connections of balancers that were closed before their header came, to make room."""
        return self._headers.evicted

    def add(self, sock: socket.socket, peer: Endpoint, accepted: Accepted) -> None:
        """Take over a non-blocking socket, and hand it to `accepted` with the address of whose connection it is: of the
        balancer itself when that is all it says, as of a health check. `accepted` may be called before this returns."""
        if not self._balancers:
            accepted(sock, peer)
        elif peer.host in self._balancers:
            self._headers.add(sock, peer, partial(self._headed, accepted))
        elif self._opaque:
            self._others.add(sock, peer, partial(self._looked_at, accepted), silent=accepted)
        else:
            accepted(sock, peer)

    async def over(self) -> None:
        """Wait until no connection waits for its header."""
        await self._headers.over()
        await self._others.over()

    def close(self) -> None:
        """Close the connections that wait."""
        self._headers.close()
        self._others.close()

    def _headed(
        self, accepted: Accepted, sock: socket.socket, peer: Endpoint, found: Parsed | Invalid, _: bytes
    ) -> None:
        if isinstance(found, Invalid):
            logger.warning(
                "connections of a load balancer come without a good PROXY header and are refused: turn it on there, or "
                "do not name its address in proxy_protocol_from",
                extra={"port": self._port, "peer": peer.host, "reason": found.reason},
            )
            self._refuse(sock, "no_proxy_header")
            return
        try:
            consumed = len(sock.recv(found.length))
        except OSError:
            consumed = 0
        if consumed < found.length:  # it was reset, or has urgent data within
            sock.close()
            return
        accepted(sock, found.header.source or peer)

    def _looked_at(
        self, accepted: Accepted, sock: socket.socket, peer: Endpoint, found: Parsed | Invalid, first_bytes: bytes
    ) -> None:
        if isinstance(found, Parsed) and notice_header(first_bytes, peer, port=self._port):
            self._refuse(sock, "proxy_header")
        else:
            accepted(sock, peer)

    def _refuse(self, sock: socket.socket, reason: str) -> None:
        self._refused(reason)
        sock.close()
