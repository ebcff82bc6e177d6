"""Looking at the first bytes of connections without taking them, until something can be said of each.

Here: waiting for a whole ClientHello within a time limit, for a bounded number of connections at once. Not here: what
the bytes are (client_hello.py), who makes room for whom (crowd.py), what becomes of the connection (route.py).
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint

from portway_relay.ingress.client_hello import Invalid, NeedMore, Parsed, parse
from portway_relay.net.half_open import HalfOpenConnections
from portway_relay.net.plain_http import LONGEST_METHOD, may_become_http

Seen = Callable[[socket.socket, Endpoint, Parsed | Invalid, bytes], None]

# Most hellos are below 2 KiB. A longer one is looked at again, so much further than it then is known to go: one look
# for each of its records would be too many.
_USUAL: Final = 4 * 1024


class Peek:
    """The connections whose first bytes are awaited. They belong to it until `seen` is called with them."""

    def __init__(self, seen: Seen, *, time_limit: float, most: int, most_of_one: int, clock: Monotonic) -> None:
        """`seen(socket, peer, hello, first bytes)` owns the socket from there on: nothing was read from it, and its
        SO_RCVLOWAT is 1. One that ends or says nothing in time is closed here; `most` may wait, `most_of_one` of one
        address, and then the one that has waited for longest is closed for each that comes."""
        self._loop = asyncio.get_running_loop()
        self._seen = seen
        self._time_limit = time_limit
        self._waiting: HalfOpenConnections[_HalfOpen] = HalfOpenConnections(most, most_of_one, _HalfOpen.drop, clock)
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def evicted(self) -> int:
        """How many were closed for one that came after them."""
        return self._waiting.evicted

    def add(self, sock: socket.socket, peer: Endpoint) -> None:
        """Take a non-blocking socket."""
        connection = _HalfOpen(self, sock, peer)
        if connection.look():
            return
        self._waiting.add(connection, peer.host)
        self._empty.clear()
        connection.wait(self._loop, self._time_limit)

    async def over(self) -> None:
        """Wait until none waits."""
        await self._empty.wait()

    def close(self) -> None:
        """Close all that wait."""
        for connection in self._waiting:
            connection.drop()

    def forget(self, connection: "_HalfOpen") -> None:
        self._waiting.discard(connection)
        if not self._waiting:
            self._empty.set()

    def tell(self, sock: socket.socket, peer: Endpoint, hello: Parsed | Invalid, data: bytes) -> None:
        self._seen(sock, peer, hello, data)


class _HalfOpen:
    """One connection of which too little is known."""

    __slots__ = ("_loop", "_needed", "_peek", "_peer", "_sock", "_timer")

    def __init__(self, peek: Peek, sock: socket.socket, peer: Endpoint) -> None:
        self._peek = peek
        self._peer = peer
        self._sock = sock
        self._needed = 1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, loop: asyncio.AbstractEventLoop, time_limit: float) -> None:
        self._loop = loop
        self._timer = loop.call_later(time_limit, self.drop)
        loop.add_reader(self._sock, self.look)

    def look(self) -> bool:
        """Peek once. True when the connection is decided or gone."""
        try:
            data = self._sock.recv(self._needed + _USUAL, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.drop()
            return True
        if len(data) < self._needed:
            # Readable below the mark means that no more will come: the other side has ended.
            self.drop()
            return True
        hello = parse(data)
        if isinstance(hello, Invalid) and may_become_http(data):
            hello = NeedMore(LONGEST_METHOD)
        if isinstance(hello, NeedMore):
            return self._need(hello.size)
        self._stop_waiting()
        if self._needed > 1:
            self._set_mark(1)
        self._peek.tell(self._sock, self._peer, hello, data)
        return True

    def _need(self, size: int) -> bool:
        """Sleep until so many bytes are there: a byte more each time must not wake the node each time."""
        self._needed = size
        # libuv tells of a reset once, and watches the socket no more: this look may have been for that.
        if not self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) and self._set_mark(size):
            return False
        self.drop()
        return True

    def _set_mark(self, size: int) -> bool:
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
        except OSError:
            return False
        return True

    def drop(self) -> None:
        self._stop_waiting()
        self._sock.close()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
            self._loop = None
            self._peek.forget(self)
