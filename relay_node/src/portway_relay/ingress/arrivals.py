"""What the public port and the plain HTTP port have in common: connections until their first bytes have been seen.

Here: accepting, behind balancers as well, waiting within the node's limits, and the counts of both. Not here: what the
first bytes mean, and what becomes of a connection (public_port.py, http_port.py).
"""

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from portway_runtime.balancers import BalancedConnections
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.first_bytes import FirstBytes, Seen
from portway_runtime.listener import Listener
from portway_runtime.parse_results import NeedMore
from portway_runtime.proxy_headers import UnexpectedProxyHeaders

from portway_relay.config import NodeConfig

T = TypeVar("T")


class Arrivals(Generic[T]):
    """The connections of one port that arrive."""

    def __init__(
        self,
        port: str,
        read: Callable[[bytes], T | NeedMore],
        seen: Seen[T],
        refusal: Callable[[str], str],
        *,
        config: NodeConfig,
        clock: Monotonic,
    ) -> None:
        """
        port: how it is called in the log.
        read, seen: as FirstBytes has them.
        refusal: called with the host of each peer; the reason for which its connection is closed unread, "" for none.
        """
        limits = config.limits
        self._batch = limits.accepts_per_turn
        self._refusal = refusal
        self._first_bytes = FirstBytes[T](
            read,
            seen,
            time_limit=limits.hello_time,
            capacity=limits.max_half_open,
            capacity_per_address=limits.max_half_open_per_address,
            clock=clock,
        )
        self._balanced = BalancedConnections(
            port,
            config.proxy_protocol_from,
            time_limit=limits.hello_time,
            capacity=limits.max_half_open,
            clock=clock,
            refused=self._count,
        )
        self._listener: Listener | None = None
        self.unexpected_headers = UnexpectedProxyHeaders(port)
        self.accepted = 0
        self.rejected: Counter[str] = Counter()  # by reason

    @property
    def half_open(self) -> int:
        """Connections whose first bytes are incomplete."""
        return len(self._balanced) + len(self._first_bytes)

    @property
    def evicted(self) -> int:
        """Connections that were closed before their first bytes came, to make room."""
        return self._balanced.evicted + self._first_bytes.evicted

    @property
    def pauses(self) -> int:
        """How often accepting paused for want of descriptors."""
        return self._listener.pauses if self._listener is not None else 0

    @property
    def listeners(self) -> list[Listener]:
        """What accepts the connections; nothing where the port does not listen."""
        return [] if self._listener is None else [self._listener]

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on these listening sockets, which are owned from now on."""
        self._listener = Listener(sockets, self._arrived, batch=self._batch)

    def turn_away(self, sock: socket.socket, reason: str) -> None:
        """Close a connection, and count it."""
        self._count(reason)
        sock.close()

    async def heard(self) -> None:
        """Wait until the first bytes of all that were accepted have been seen."""
        await self._balanced.over()
        await self._first_bytes.over()

    def close(self) -> None:
        """Accept no more, and close the connections whose first bytes are awaited."""
        if self._listener is not None:
            self._listener.close()
        self._balanced.close()
        self._first_bytes.close()

    def _arrived(self, sock: socket.socket, peer: Endpoint) -> None:
        self._balanced.add(sock, peer, self._accept)

    def _count(self, reason: str) -> None:
        self.rejected[reason] += 1

    def _accept(self, sock: socket.socket, peer: Endpoint) -> None:
        self.accepted += 1
        if reason := self._refusal(peer.host):
            self.turn_away(sock, reason)
        else:
            self._first_bytes.add(sock, peer)
