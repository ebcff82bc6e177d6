"""TLS above a plain TCP transport: OpenSSL in memory, its bytes moved by hand, nothing read ahead.

asyncio's and uvloop's own TLS hold a buffer of 256 KiB for each connection, read on while they are paused, and take
30 µs more of each new one (docs/decisions/0003).
"""

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

from portway_proto.wire.frames import Bytes

if TYPE_CHECKING:
    from portway_carrier.python.carrier import PythonCarrier

# OpenSSL keeps a buffer as large as the largest read for as long as a connection lives.
CIPHERTEXT_SIZE: Final = 128 * 1024
# A longer one is on its way at once: megabytes can be written in one turn of the loop, and nothing would hold them up.
_SHORT_ANSWER: Final = 16 * 1024


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """To the TCP transport a protocol, to the protocol above it a transport, once `handshake` is done.

    The protocol above reads from the carrier's read buffer, like every other. What it is told, and when, is as with
    asyncio's own TLS: the end of TCP counts as the end of TLS.
    """

    __slots__ = (
        "_above",
        "_carrier",
        "_closing",
        "_ended",
        "_error",
        "_from_peer",
        "_tcp",
        "_tls",
        "_to_peer",
        "handshake",
    )

    def __init__(
        self,
        carrier: "PythonCarrier",
        context: ssl.SSLContext,
        above: asyncio.BufferedProtocol,
        server_name: str | None,
    ) -> None:
        """With a `server_name` as the client of that server. `handshake` fails with an OSError (ssl.SSLError,
        ConnectionError). Raises ValueError for what can be no server's name."""
        self._carrier = carrier
        self._above = above
        self._from_peer = ssl.MemoryBIO()
        self._to_peer = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._from_peer, self._to_peer, server_side=server_name is None, server_hostname=server_name
        )
        self._tcp: asyncio.Transport | None = None
        self._ended = False  # it sends no more
        self._closing = False
        self._error: Exception | None = None
        self.handshake: asyncio.Future[None] = carrier.loop.create_future()

    # The TCP transport's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        if not self._tls.server_side:
            self._go_on()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._carrier.ciphertext

    def buffer_updated(self, nbytes: int) -> None:
        self._from_peer.write(self._carrier.ciphertext[:nbytes])
        self._go_on()

    def eof_received(self) -> bool:
        if not self.handshake.done():
            self.handshake.set_exception(ConnectionResetError("the peer left"))
        elif not self._closing:
            self._end()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        if not self.handshake.done():
            self.handshake.set_exception(ConnectionResetError("the peer left"))
        elif not self.handshake.cancelled() and self.handshake.exception() is None:
            self._above.connection_lost(self._error or error)

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    # The transport of the protocol above.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        return self._tcp.get_extra_info(name, default) if self._tcp is not None else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._above = cast(asyncio.BufferedProtocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._above

    def is_closing(self) -> bool:
        return self._closing or self._tcp is None or self._tcp.is_closing()

    def pause_reading(self) -> None:
        if not self.is_closing():
            self._connected.pause_reading()

    def resume_reading(self) -> None:
        if not self.is_closing():
            self._connected.resume_reading()

    def write(self, data: Bytes) -> None:
        if data and not self.is_closing():
            first = self._to_peer.pending > 0  # behind the session ticket; its end may be known at once
            try:
                self._tls.write(data)
            except ssl.SSLError as error:
                self._fail(error)
                return
            if first and self._to_peer.pending <= _SHORT_ANSWER:
                self._carrier.loop.call_soon(self._flush)
            else:
                self._flush()

    def get_write_buffer_size(self) -> int:
        return self._tcp.get_write_buffer_size() if self._tcp is not None else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._connected.set_write_buffer_limits(high, low)

    def close(self) -> None:
        """Say that nothing more comes. The connection ends with the peer's answer, which is awaited without limit."""
        if self.is_closing():
            return
        self._closing = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # most often SSLWantReadError: it has not ended yet
            pass
        self._flush()
        if self._ended:
            self._connected.close()

    def abort(self) -> None:
        self._closing = True
        self.handshake.cancel()  # nobody waits for it any more
        if self._tcp is not None:
            self._tcp.abort()

    @property
    def _connected(self) -> asyncio.Transport:
        assert self._tcp is not None
        return self._tcp

    def _go_on(self) -> None:
        try:
            if self.handshake.done() or self._shake():
                self._read()
        except ssl.SSLError as error:
            self._fail(error)

    def _shake(self) -> bool:
        """Whether the handshake is done now."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        if not self._tls.server_side or self._tls.version() != "TLSv1.3":
            self._flush()
        # A server of TLS 1.3 has nothing more to say than a session ticket: that leaves with the first bytes.
        self.handshake.set_result(None)
        self._above.connection_made(self)
        return not self._connected.is_closing()

    def _read(self) -> None:
        """All that has come, in one piece: it is no longer than its ciphertext, which fitted."""
        room, size = self._carrier.read_buffer.room, 0
        try:
            while self._from_peer.pending or self._tls.pending():
                got = self._tls.read(len(room), room[size:])
                if not got:
                    self._ended = True
                    break
                size += cast(int, got)
        except ssl.SSLWantReadError:
            pass
        if self._closing:
            if self._ended:
                self._connected.close()
            return
        if size:
            self._above.buffer_updated(size)
        if self._ended:
            self._end()

    def _end(self) -> None:
        """The peer has ended its direction, and with that both."""
        self._ended = True
        if not self._closing and not self._above.eof_received():
            self.close()

    def _flush(self) -> None:
        if self._to_peer.pending and not self._connected.is_closing():
            self._connected.write(self._to_peer.read())

    def _fail(self, error: ssl.SSLError) -> None:
        """Tell the peer what OpenSSL has to say of it, and drop it."""
        self._error = error
        if not self.handshake.done():
            self.handshake.set_exception(error)
        self._flush()
        self.abort()
