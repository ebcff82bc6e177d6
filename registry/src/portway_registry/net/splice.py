"""One accepted connection and the one to gRPC that carries its bytes, both ways, still encrypted.

Here: moving bytes, and how many are read of a connection whose caller is not identified. Not here: which connections
there are (front.py), what becomes of them (admission.py).
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.rates import TokenBucket

from portway_registry.net.connection import Connection, Stage

# Bytes read of a connection before a caller on it is identified: at once, then per second. A handshake with a client's
# certificate takes 4 KiB and a call's headers 300 bytes. gRPC holds some 20 KB for a call whose headers take 30.
STRANGER_BURST: Final = 16 << 10
STRANGER_RATE: Final = 2 << 10
# Seconds until a stranger that has used its allowance up is read again: there is some for a call's headers then.
_READ_AGAIN: Final = 0.2
# Seconds for answers to be sent before a connection that is let go is closed.
_LET_GO: Final = 1.0
# Seconds for the peer to take what gRPC sent before it closed.
_LAST_BYTES: Final = 10.0


class Splice:
    """Both sockets of a connection, which it owns."""

    def __init__(
        self,
        sock: socket.socket,
        peer: Endpoint,
        *,
        ingress: str = "",
        opening: Callable[["Splice"], None],
        ended: Callable[["Splice"], None],
        buffer: memoryview,
        clock: Monotonic,
    ) -> None:
        """ingress: as of Connection. opening: called by `open`, so that `run` is called soon. ended: called once, at
        the end.
        buffer: what bytes are read into; it may be shared, as they are passed on before the next are read.
        """
        self.connection = Connection(peer, self, ingress)
        self.name: str | None = None  # by which gRPC knows it
        # Until the event loop has them.
        self._sock: socket.socket | None = sock
        self._inner_sock: socket.socket | None = None
        self._opening = opening
        self._ended = ended
        self.outer = _Outer(self, buffer, TokenBucket(STRANGER_RATE, STRANGER_BURST, clock))
        self.inner = _Inner(self)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def over(self) -> bool:
        """Whether it is closed, and the event loop has let go of its sockets."""
        return self._closed and self.outer.transport is None and self.inner.transport is None

    def open(self) -> None:
        self._opening(self)

    def connect(self, inner: socket.socket, name: str) -> None:
        """Use `inner`, which is connected to gRPC and owned from now on, for `run`. gRPC knows it by `name`."""
        self.name = name
        self._inner_sock = inner

    async def run(self) -> None:
        """Begin to pass bytes on. Returns when both sockets are the event loop's."""
        loop = asyncio.get_running_loop()
        try:
            inner, self._inner_sock = self._inner_sock, None
            if inner is not None:
                await loop.create_unix_connection(lambda: self.inner, sock=inner)
            sock, self._sock = self._sock, None
            if sock is not None:  # not closed meanwhile
                await loop.connect_accepted_socket(lambda: self.outer, sock)
        except OSError:
            self.close()

    def let_go(self) -> None:
        self.outer.pause()
        self._close_after(_LET_GO)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for sock in (self._sock, self._inner_sock):
            if sock is not None:
                sock.close()
        self._sock = self._inner_sock = None
        self.outer.abort()
        self.inner.abort()
        self._ended(self)

    def other(self, side: "_Side") -> "_Side":
        """For this module: the side that takes what `side` reads."""
        return self.inner if side is self.outer else self.outer

    def side_ended(self, side: "_Side") -> None:
        """For this module: a side has ended. What gRPC sent last is still sent; a peer that is gone waits for none."""
        if self._closed or side is self.outer or self.outer.transport is None:
            self.close()
        else:
            self.outer.transport.close()
            self._close_after(_LAST_BYTES)

    def _close_after(self, seconds: float) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.close)


class _Side(asyncio.BaseProtocol):
    """One of the two sockets."""

    def __init__(self, splice: Splice) -> None:
        self.splice = splice
        self.transport: asyncio.Transport | None = None
        self._pauses = 0  # reasons for which nothing is read now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.splice.closed:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.splice.side_ended(self)

    def pause_writing(self) -> None:
        self.splice.other(self).pause()

    def resume_writing(self) -> None:
        self.splice.other(self).resume()

    def pause(self) -> None:
        self._pauses += 1
        if self._pauses == 1 and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        self._pauses -= 1
        if not self._pauses and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Inner(_Side, asyncio.Protocol):
    """gRPC's."""

    def data_received(self, data: bytes) -> None:
        outer = self.splice.outer.transport
        if outer is not None and not outer.is_closing():
            outer.write(data)


class _Outer(_Side, asyncio.BufferedProtocol):
    """The peer's. Until the connection is known, no more is read than it is allowed."""

    def __init__(self, splice: Splice, buffer: memoryview, allowance: TokenBucket) -> None:
        super().__init__(splice)
        self._buffer = buffer
        self._allowance = allowance
        self._timer: asyncio.TimerHandle | None = None

    def get_buffer(self, sizehint: int) -> memoryview:
        if self.splice.connection.stage is Stage.KNOWN:
            return self._buffer
        return self._buffer[: int(self._allowance.left)]

    def buffer_updated(self, nbytes: int) -> None:
        inner = self.splice.inner.transport
        if inner is None or inner.is_closing():
            return
        inner.write(bytes(self._buffer[:nbytes]))
        if self.splice.connection.stage is not Stage.KNOWN:
            self._allowance.charge(nbytes)
            if self._allowance.left < 1:
                self.pause()
                self._read_later()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(error)

    def _read_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_READ_AGAIN, self._read_again)

    def _read_again(self) -> None:
        if self.splice.connection.stage is Stage.KNOWN or self._allowance.left >= 1:
            self._timer = None
            self.resume()
        else:
            self._read_later()
