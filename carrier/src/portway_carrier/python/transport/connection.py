"""The base of every connection: its transport, pausing its reads, and the ways to end it.

asyncio's transports leave two things to their users, which are done here: a transport that is closed must be dropped
when its peer takes no more bytes, and must be closed only once.
"""

import asyncio
from typing import Final

from portway_proto.wire.frames import Bytes
from portway_runtime.endpoints import Endpoint

from portway_carrier.python.core.core import Core
from portway_carrier.python.transport import kernel

# OpenSSL keeps a buffer as large as the largest write for as long as a connection lives. Smaller writes than this one
# cost time, larger ones save none.
_TLS_WRITE: Final = 64 * 1024


class Connection(asyncio.BufferedProtocol):
    """The asyncio protocol of a connection. `transport` is None before it is established and after it has ended."""

    __slots__ = (
        "_linger_timer",
        "_linger_unsent",
        "_peer",
        "core",
        "reads_paused",
        "tls",
        "transport",
        "writes_paused",
    )

    def __init__(self, core: Core, peer: Endpoint, *, tls: bool) -> None:
        self.core = core
        self.tls = tls
        self.transport: asyncio.Transport | None = None
        self.writes_paused = False
        self.reads_paused = False
        self._peer = peer
        self._linger_timer: asyncio.TimerHandle | None = None
        self._linger_unsent = 0

    @property
    def peer(self) -> Endpoint:
        return self._peer

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.core.read_buffer.room

    def write(self, data: Bytes) -> None:
        """Write `data`, which may be a part of the read buffer: a plain transport is given a copy, because it keeps
        what the kernel does not take at once and the buffer is overwritten by the next read."""
        transport = self.transport
        if transport is None:
            return
        if not self.tls:
            # What is written in the turn of the loop in which a connection broke, asyncio would complain of.
            if not transport.is_closing():
                transport.write(bytes(data))
        elif len(data) <= _TLS_WRITE:
            transport.write(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), _TLS_WRITE):
                transport.write(view[start : start + _TLS_WRITE])

    def pause_source(self) -> None:
        """Stop reading from the peer."""
        transport = self.transport
        if not self.reads_paused and transport is not None and not transport.is_closing():
            self.reads_paused = True
            transport.pause_reading()

    def resume_source(self) -> None:
        """Read from the peer again."""
        transport = self.transport
        if self.reads_paused and transport is not None:
            self.reads_paused = False
            if not transport.is_closing():
                transport.resume_reading()

    def unsent(self) -> int:
        """Bytes that were written and that the kernel has not taken yet."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def is_closing(self) -> bool:
        """Whether its close has begun and not completed."""
        return self.transport is not None and self.transport.is_closing()

    def shut(self) -> None:
        """Flush, then close. It is dropped when no byte leaves during Limits.linger."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self.resume_source()  # TLS ends with the peer's answer
        transport.close()
        if self.tls or self.unsent():
            self.linger()

    def drop(self) -> None:
        """Close without flushing. Over plain TCP the peer gets a reset, so that a truncated stream of bytes does not
        look complete."""
        if self.transport is not None:
            if not self.tls:
                kernel.reset_on_close(self.transport)
            self.transport.abort()

    def linger(self) -> None:
        """Start, or restart, the timer that drops the connection unless unsent bytes leave during Limits.linger."""
        self._stop_lingering()
        self._linger_unsent = self.unsent()
        self._linger_timer = self.core.loop.call_later(self.core.limits.linger, self._linger_over)

    def attach(self, transport: asyncio.Transport) -> None:
        """Use this transport, which is connected."""
        self.transport = transport
        self.core.connections.add(self)

    def detach(self) -> None:
        """Forget the transport: it has ended, or another connection has taken it over."""
        self.transport = None
        self.core.connections.discard(self)
        self._stop_lingering()

    def _linger_over(self) -> None:
        if 0 < self.unsent() < self._linger_unsent:
            self.linger()
        else:
            self.drop()

    def _stop_lingering(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
