"""What a stream and a lane have in common: their transport, how it is paused, and the ways to end it.

Here too: what asyncio leaves to be minded. Transports must be closed once.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from portway_proto.wire.frames import Bytes
from portway_runtime.endpoints import Endpoint

from portway_carrier.python.transport import kernel

if TYPE_CHECKING:
    from portway_carrier.python.carrier import PythonCarrier

# OpenSSL keeps a buffer as large as the largest write for as long as a connection lives. Smaller writes than this one
# cost time, larger ones none less.
_TLS_WRITE: Final = 64 * 1024


class Connection(asyncio.BufferedProtocol):
    """The asyncio protocol of a connection. `transport` is None before it is up and after it is gone."""

    __slots__ = (
        "_linger_left",
        "_linger_timer",
        "_peer",
        "carrier",
        "reads_paused",
        "tls",
        "transport",
        "writes_paused",
    )

    def __init__(self, carrier: "PythonCarrier", peer: Endpoint, *, tls: bool) -> None:
        self.carrier = carrier
        self.tls = tls
        self.transport: asyncio.Transport | None = None
        self.writes_paused = False
        self.reads_paused = False
        self._peer = peer
        self._linger_timer: asyncio.TimerHandle | None = None
        self._linger_left = 0

    @property
    def peer(self) -> Endpoint:
        return self._peer

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.carrier.read_buffer.room

    def write(self, data: Bytes) -> None:
        """`data` may be a part of the read buffer: a plain transport would keep it, and read later what is not there
        any more."""
        transport = self.transport
        if transport is None:
            return
        if not self.tls:
            transport.write(bytes(data))
        elif len(data) <= _TLS_WRITE:
            transport.write(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), _TLS_WRITE):
                transport.write(view[start : start + _TLS_WRITE])

    def pause_source(self) -> None:
        transport = self.transport
        if not self.reads_paused and transport is not None:
            self.reads_paused = True
            transport.pause_reading()

    def resume_source(self) -> None:
        transport = self.transport
        if self.reads_paused and transport is not None:
            self.reads_paused = False
            if not transport.is_closing():
                transport.resume_reading()

    def waiting(self) -> int:
        """Bytes written here that have not left for the kernel."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def is_closing(self) -> bool:
        """Whether it is being closed and not gone yet."""
        return self.transport is not None and self.transport.is_closing()

    def shut(self) -> None:
        """Let what waits leave, then close; dropped when none of it left during Limits.linger."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self.resume_source()  # TLS ends with the peer's answer
        transport.close()
        if self.tls or self.waiting():
            self.linger()

    def drop(self) -> None:
        """Close without flushing. Over plain TCP the peer is told by a reset, so that what it has got of a stream of
        bytes does not look whole."""
        if self.transport is not None:
            if not self.tls:
                kernel.reset_on_close(self.transport)
            self.transport.abort()

    def linger(self) -> None:
        """From now on see whether what waits still leaves."""
        self._stop_lingering()
        self._linger_left = self.waiting()
        self._linger_timer = self.carrier.loop.call_later(self.carrier.limits.linger, self._linger_over)

    def attach(self, transport: asyncio.Transport) -> None:
        """It is up."""
        self.transport = transport
        self.carrier.connections.add(self)

    def detach(self) -> None:
        """Its transport is no more."""
        self.transport = None
        self.carrier.connections.discard(self)
        self._stop_lingering()

    def _linger_over(self) -> None:
        if 0 < self.waiting() < self._linger_left:
            self.linger()
        else:
            self.drop()

    def _stop_lingering(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
