"""DNS over TCP (RFC 7766): for answers that were cut, and for whoever prefers it.

Here: moving, and limits of connections. A connection takes one query after the other; one that keeps its server waiting
is closed. Not here: what is answered.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.half_open import HalfOpenConnections
from portway_runtime.listener import Listener
from portway_runtime.tasks import Tasks

from portway_relay.dns.loop_share import LoopShare

logger = logging.getLogger(__name__)

_LARGEST: Final = 4_096  # bytes of a query
# Seconds for a whole query after the one before, and for an answer to be taken.
IDLE_TIME: Final = 10.0
# Connections at a time, in all and of one address. Above them the oldest of whoever has most makes room: a resolver has
# asked by then, and a stranger who only stays could else keep all others out.
_CONNECTIONS: Final = 256
_OF_ADDRESS: Final = 64


class TcpServer:
    """Answers on listening sockets, which it owns."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        answer: Callable[[bytes, str], bytes | None],
        share: LoopShare,
        clock: Monotonic,
        *,
        idle_time: float,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """Begin to accept, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._answer = answer
        self._share = share
        self._clock = clock
        self._idle_time = idle_time
        self._tasks = Tasks("DNS over TCP", on_failure)
        self._open = HalfOpenConnections[asyncio.Task[None]](_CONNECTIONS, _OF_ADDRESS, _end, clock)
        self._listener = Listener(sockets, self._accepted)
        self.queries = 0

    @property
    def refused(self) -> int:
        """Connections that were ended to make room."""
        return self._open.evicted

    def __len__(self) -> int:
        """Open connections."""
        return len(self._tasks)

    async def close(self) -> None:
        """End listening and all connections. May be called again."""
        self._listener.close()
        await self._tasks.close()

    def _accepted(self, sock: socket.socket, peer: Endpoint) -> None:
        task = self._tasks.spawn(self._serve(sock, peer.host), name="a connection")
        self._open.add(task, peer.host)

        def over(task: asyncio.Task[None]) -> None:
            sock.close()
            self._open.discard(task)

        task.add_done_callback(over)

    async def _serve(self, sock: socket.socket, source: str) -> None:
        received = bytearray()
        try:
            while True:
                async with asyncio.timeout(self._idle_time):
                    query = await self._query(sock, received)
                if query is None:
                    return
                if (wait := self._share.wait) > 0:
                    await asyncio.sleep(wait)
                began = self._clock()
                self.queries += 1
                answer = self._answer(query, source)
                self._share.spend(self._clock() - began)
                if answer is None:
                    return
                async with asyncio.timeout(self._idle_time):
                    await self._loop.sock_sendall(sock, len(answer).to_bytes(2) + answer)
        except (OSError, TimeoutError):
            return

    async def _query(self, sock: socket.socket, received: bytearray) -> bytes | None:
        """The next query; None at the end, and for one that is too long."""
        while True:
            size = int.from_bytes(received[:2]) if len(received) >= 2 else 0
            if size > _LARGEST or (len(received) >= 2 and not size):
                return None
            if size and len(received) >= 2 + size:
                query = bytes(received[2 : 2 + size])
                del received[: 2 + size]
                return query
            chunk = await self._loop.sock_recv(sock, _LARGEST)
            if not chunk:
                return None
            received += chunk


def _end(connection: asyncio.Task[None]) -> None:
    connection.cancel()
