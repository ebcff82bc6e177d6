"""Waiting for the first bytes of connections, which are looked at and not consumed (MSG_PEEK).

Here: waiting, within a time limit and for a bounded number of connections. Not here: what the bytes mean, which
connection is evicted (half_open.py), what becomes of a connection.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.half_open import HalfOpenConnections
from portway_runtime.parse_results import NeedMore

T = TypeVar("T")
# Called with socket, peer, what the first bytes are, and the bytes.
Seen = Callable[[socket.socket, Endpoint, T, bytes], None]

# Bytes looked at beyond those known to be needed. Most ClientHellos are below 2 KiB; a longer one in many records would
# otherwise take one look for each of its records.
_LOOK_AHEAD: Final = 4 * 1024
# Seconds until a connection is looked at again that the kernel calls readable too early; twice as long each time.
_PAUSE: Final = 0.05
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)  # Linux
_ESTABLISHED: Final = b"\x01"  # the first byte of TCP_INFO while neither side has ended


class FirstBytes(Generic[T]):
    """The connections whose first bytes are awaited. It owns their sockets until it calls `seen`."""

    def __init__(
        self,
        read: Callable[[bytes], T | NeedMore],
        seen: Seen[T] | None = None,
        *,
        time_limit: float,
        capacity: int,
        capacity_per_address: int,
        clock: Monotonic,
    ) -> None:
        """read: what the first bytes are, or NeedMore while this cannot be said.
        seen: called with socket, peer, what `read` returned, and the bytes, unless `add` names another. It takes the
            socket over; nothing was read from it, and its SO_RCVLOWAT is 1.
        time_limit: seconds for these bytes. A connection that exceeds it, or ends before, is closed, unless `add` says
            what becomes of it.
        capacity: connections that may wait, in all and for each address; at a limit the oldest is closed.
        """
        self._loop = asyncio.get_running_loop()
        self._read = read
        self._seen = seen
        self._time_limit = time_limit
        self._waiting = HalfOpenConnections[_Connection[T]](capacity, capacity_per_address, _Connection.give_up, clock)
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def evicted(self) -> int:
        """Connections that were closed to make room."""
        return self._waiting.evicted

    def add(
        self,
        sock: socket.socket,
        peer: Endpoint,
        seen: Seen[T] | None = None,
        *,
        silent: Callable[[socket.socket, Endpoint], None] | None = None,
    ) -> None:
        """Take over a non-blocking socket. `seen` may be called before this returns. `silent` takes the socket over
        when the bytes do not come in time, or not at all, or when there is no room to wait for them."""
        connection = _Connection(self, sock, peer, seen or self._seen, silent)
        if connection.look():
            return
        self._waiting.add(connection, peer.host)
        self._empty.clear()
        connection.wait(self._loop, self._time_limit)

    async def over(self) -> None:
        """Wait until no connection waits."""
        await self._empty.wait()

    def close(self) -> None:
        """Close all connections that wait."""
        for connection in self._waiting:
            connection.drop()

    def read(self, data: bytes) -> T | NeedMore:
        """For this module: what these first bytes are."""
        return self._read(data)

    def forget(self, connection: "_Connection[T]") -> None:
        """For this module: a connection waits no more."""
        self._waiting.discard(connection)
        if not self._waiting:
            self._empty.set()


class _Connection(Generic[T]):
    """One connection whose first bytes are incomplete."""

    __slots__ = (
        "_first_bytes",
        "_loop",
        "_needed",
        "_pause",
        "_paused",
        "_peer",
        "_seen",
        "_silent",
        "_sock",
        "_timer",
    )

    def __init__(
        self,
        first_bytes: FirstBytes[T],
        sock: socket.socket,
        peer: Endpoint,
        seen: Seen[T] | None,
        silent: Callable[[socket.socket, Endpoint], None] | None,
    ) -> None:
        self._first_bytes = first_bytes
        self._seen = seen
        self._silent = silent
        self._peer = peer
        self._sock = sock
        self._needed = 1  # bytes without which nothing can be said
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _PAUSE
        self._paused: asyncio.TimerHandle | None = None

    def wait(self, loop: asyncio.AbstractEventLoop, time_limit: float) -> None:
        self._loop = loop
        self._timer = loop.call_later(time_limit, self.give_up)
        loop.add_reader(self._sock, self.look)

    def look(self) -> bool:
        """Peek once. True when the connection is handed over or closed."""
        try:
            data = self._sock.recv(self._needed + _LOOK_AHEAD, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.drop()
            return True
        if len(data) < self._needed:
            # Readable with fewer bytes than SO_RCVLOWAT.
            if self._has_ended():
                self.give_up()
                return True
            self._look_later()
            return False
        found = self._first_bytes.read(data)
        if isinstance(found, NeedMore):
            return self._need(found.size)
        self._stop_waiting()
        assert self._seen is not None, "the constructor or `add` says who sees the bytes"
        self._seen(self._sock, self._peer, found, data)
        return True

    def _has_ended(self) -> bool:
        """Whether the peer has closed its side. Else the kernel is short of memory for sockets, and disregards
        SO_RCVLOWAT; or urgent data is among these bytes."""
        if self._needed == 1 or _TCP_INFO is None:
            return True
        try:
            return self._sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1) != _ESTABLISHED
        except OSError:
            return True

    def _look_later(self) -> None:
        """Not in each turn of the loop, for all of which the socket is readable."""
        assert self._loop is not None, "more bytes are needed only after a first look"
        self._loop.remove_reader(self._sock)
        self._paused = self._loop.call_later(self._pause, self._loop.add_reader, self._sock, self.look)
        self._pause *= 2

    def _need(self, size: int) -> bool:
        """Sleep until `size` bytes are there, however slowly they arrive. True when the connection was closed."""
        self._needed = size
        # libuv reports a reset once and stops watching the socket: this look may have been for one.
        if not self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) and self._set_low_water_mark(size):
            return False
        self.drop()
        return True

    def _set_low_water_mark(self, size: int) -> bool:
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
        except OSError:
            return False
        return True

    def give_up(self) -> None:
        self._stop_waiting()
        if self._silent is None:
            self._sock.close()
        else:
            self._silent(self._sock, self._peer)

    def drop(self) -> None:
        self._stop_waiting()
        self._sock.close()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._paused is not None:
            self._paused.cancel()
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
            self._loop = None
            self._first_bytes.forget(self)
        if self._needed > 1:
            self._needed = 1
            self._set_low_water_mark(1)
