"""A port whose connections say by their first bytes what they are: each from its arrival until these have been seen.

Here: accepting, behind balancers as well, waiting within limits, counting. Not here: what the first bytes mean, and
what becomes of a connection.
"""

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from portway_runtime.balancers import BalancedConnections, Network
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.first_bytes import FirstBytes, Seen
from portway_runtime.listener import BATCH, Listener
from portway_runtime.parse_results import NeedMore
from portway_runtime.proxy_headers import notice_header

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ArrivalLimits:
    """Bounds of connections whose first bytes are awaited.

    time_limit: seconds for the first bytes, and before them for a balancer's header.
    capacity, capacity_per_address: connections that may wait for them; at a limit the oldest is closed.
    batch: connections accepted in one turn of the loop.
    """

    time_limit: float
    capacity: int
    capacity_per_address: int
    batch: int = BATCH


class Arrivals(Generic[T]):
    """The connections of one port that arrive."""

    def __init__(
        self,
        port: str,
        read: Callable[[bytes], T | NeedMore],
        seen: Seen[T],
        refusal: Callable[[str], str],
        *,
        balancers: Sequence[Network],
        limits: ArrivalLimits,
        clock: Monotonic,
    ) -> None:
        """
        port: how it is called in the log.
        read, seen: as FirstBytes has them.
        refusal: called with the host of each peer; the reason for which its connection is closed unread, "" for none.
        balancers: networks of load balancers in front.
        """
        self._port = port
        self._batch = limits.batch
        self._refusal = refusal
        self._first_bytes = FirstBytes[T](
            read,
            seen,
            time_limit=limits.time_limit,
            capacity=limits.capacity,
            capacity_per_address=limits.capacity_per_address,
            clock=clock,
        )
        self._balanced = BalancedConnections(
            port,
            balancers,
            time_limit=limits.time_limit,
            capacity=limits.capacity,
            clock=clock,
            refused=self._count,
        )
        self._listener: Listener | None = None
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

    def is_proxied(self, first_bytes: bytes, peer: Endpoint) -> bool:
        """Whether a connection that the port does not serve begins with a PROXY header, which is logged."""
        return notice_header(first_bytes, peer, port=self._port)

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
