"""TLS on top of a plain TCP transport, by OpenSSL's memory BIOs, without reading ahead.

asyncio's and uvloop's own TLS hold a buffer of 256 KiB for each connection, keep reading while they are paused, and
take 30 µs more for each new connection (docs/decisions/0003).
"""

import asyncio
import ssl
from typing import Any, Final, cast

from portway_proto.wire.frames import Bytes
from portway_runtime.tasks import fail

from portway_carrier.python.core.core import Core
from portway_carrier.python.transport import kernel
from portway_carrier.python.transport.server_answer import ALERT_SIZE, Verdict, look_at
from portway_carrier.python.transport.tls_records import RecordCounter

# A longer one is flushed at once: megabytes can be written in one turn of the loop, and back-pressure sees only what
# has been flushed.
_SHORT_ANSWER: Final = 16 * 1024

# Records after the handshake that bring no data, in the life of a connection: KeyUpdates, alerts, requests to
# renegotiate, empty ones. A KeyUpdate is due for some 2^24 records (RFC 8446 §5.5), and a server sends a ticket or two.
_MOST_BARE_RECORDS: Final = 64
# OpenSSL works through all bare records that it has been given before it returns, 5 to 10 µs for each: what holds more
# records than this is passed to it in pieces.
_RECORDS_AT_ONCE: Final = 64
_PIECE: Final = 2 * 1024  # bytes; as many KeyUpdates


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """The protocol of a TCP transport, and the transport of a protocol above it once `handshake` is done.

    Like every other, the protocol above finds what was read in the core's read buffer. It gets the same calls as from
    asyncio's own TLS transport: an end of TCP counts as an end of TLS.

    In TLS 1.3 a close_notify ends one direction (RFC 8446 §6.1), as `write_eof` does; before it ended both. An end of
    TCP without one ends both.
    """

    __slots__ = (
        "_aborted",
        "_above",
        "_bare_records",
        "_closing",
        "_core",
        "_ended",
        "_error",
        "_from_peer",
        "_held_back",
        "_notified",
        "_records",
        "_source",
        "_tcp",
        "_tls",
        "_to_peer",
        "_unread_answer",
        "half_closes",
        "handshake",
    )

    def __init__(
        self,
        core: Core,
        context: ssl.SSLContext,
        above: asyncio.BufferedProtocol,
        server_name: str | None,
        *,
        any_group: bool = False,
    ) -> None:
        """A client's end with `server_name`, a server's without. The future `handshake` fails with an OSError
        (ssl.SSLError, ConnectionError). any_group: the server may ask for another key exchange group. Raises ValueError
        when `server_name` is not a valid host name."""
        self._core = core
        self._above = above
        self._from_peer = ssl.MemoryBIO()
        self._to_peer = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._from_peer, self._to_peer, server_side=server_name is None, server_hostname=server_name
        )
        self._tcp: asyncio.Transport | None = None
        self._ended = False  # the peer has sent its close_notify, or its end of TCP without one
        self._notified = False  # a close_notify was sent
        self._closing = False
        self._aborted = False
        self.half_closes = False  # one direction can end while the other goes on
        self._held_back = 0  # bytes in _to_peer that leave with the first answer
        self._source = core.ciphertext  # where what was received is
        self._records = RecordCounter()
        self._bare_records = 0  # received so far without data; a record that has not arrived whole counts too
        # A server's first bytes, as long as it is not certain that OpenSSL may read them; None afterwards.
        self._unread_answer: bytes | None = None if server_name is None or any_group else b""
        self._error: Exception | None = None
        self.handshake: asyncio.Future[None] = core.loop.create_future()

    # The protocol of the TCP transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        if not self._tls.server_side:
            self._advance()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._core.ciphertext

    def buffer_updated(self, nbytes: int) -> None:
        if self._ended:
            return  # what follows a close_notify is no part of the connection
        received: Bytes = self._source[:nbytes]
        if self._unread_answer is not None:
            received = self._look_at_answer(self._unread_answer + received)
            if not received:
                return
            nbytes = len(received)
        count = self._records.count(received, _RECORDS_AT_ONCE)
        if count is not None:
            self._bare_records += count
            self._from_peer.write(received)
            self._advance()
            return
        for start in range(0, nbytes, _PIECE):
            piece = received[start : start + _PIECE]
            self._bare_records += self._records.count(piece, _PIECE) or 0
            self._from_peer.write(piece)
            self._advance()
            if self._aborted:
                return

    def received(self, data: bytes) -> None:
        """Take what the peer sent and was not read to `get_buffer`."""
        self._source = memoryview(data)
        try:
            self.buffer_updated(len(data))
        finally:
            self._source = self._core.ciphertext

    def eof_received(self) -> bool:
        if not self.handshake.done():
            fail(self.handshake, ConnectionResetError("the peer left"))
        elif not self._closing:
            if self.half_open:
                return True
            self.half_closes = False
            self._end()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        established = self.handshake.done() and not self.handshake.cancelled() and self.handshake.exception() is None
        if established and error is not None and not self._closing and self._tcp is not None:
            self._read_rest(self._tcp)
        self._closing = self._aborted = True
        if not self.handshake.done():
            fail(self.handshake, ConnectionResetError("the peer left"))
        elif established:
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

    @property
    def half_open(self) -> bool:
        """Whether the peer has ended its direction alone, and may still read."""
        return self._ended and self.half_closes

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
            # Behind the session ticket, which has not been flushed: the first answer, whose end may follow at once.
            first = self._to_peer.pending > 0
            try:
                self._tls.write(data)
            except ssl.SSLError as error:
                self._fail(error)
                return
            if first and self._to_peer.pending <= _SHORT_ANSWER:
                self._core.loop.call_soon(self._flush)
            else:
                self._flush()

    def get_write_buffer_size(self) -> int:
        waiting = self._to_peer.pending - self._held_back
        return waiting + self._tcp.get_write_buffer_size() if self._tcp is not None else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._connected.set_write_buffer_limits(high, low)

    def write_eof(self) -> None:
        """End this direction. Nothing may be written after it."""
        if not self.is_closing():
            self._notify()

    def close(self) -> None:
        """End this direction. The connection closes when the peer has ended its own; that wait has no limit here."""
        if self.is_closing():
            return
        self._closing = True
        self._notify()
        if self._ended:
            self._connected.close()

    def cut_off(self) -> None:
        """End TCP behind what was written, without close_notify: the peer takes that for a connection that was cut off.
        What it still sends is dropped, and the connection closes when it has ended, too."""
        if self.is_closing():
            return
        self._flush()
        self._closing = self._ended = True
        kernel.end_writing(self._connected)

    def abort(self) -> None:
        self._closing = self._aborted = True
        self.handshake.cancel()
        if self._tcp is not None:
            self._tcp.abort()

    @property
    def _connected(self) -> asyncio.Transport:
        assert self._tcp is not None
        return self._tcp

    def _advance(self) -> None:
        try:
            if self.handshake.done() or self._continue_handshake():
                self._read()
        except ssl.SSLError as error:
            self._fail(error)

    def _look_at_answer(self, first: bytes) -> bytes:
        """What OpenSSL may read of a server's first bytes. A server that asks for another key exchange is dropped."""
        verdict = look_at(first)
        if verdict is Verdict.MORE:
            self._unread_answer = first
            return b""
        if verdict is Verdict.ALERT:
            self._from_peer.write(first[:ALERT_SIZE])
            self._advance()
            if not self.handshake.done():
                self._fail(ConnectionAbortedError("the peer answers with a warning"))
            return b""
        if verdict is Verdict.UNFIT:
            self._fail(ConnectionAbortedError("the peer asks for another key exchange"))
            return b""
        self._unread_answer = None
        return first

    def _continue_handshake(self) -> bool:
        """Whether it is done now and there may be bytes to read."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        self.half_closes = self._tls.version() == "TLSv1.3"
        if not self._tls.server_side or not self.half_closes:
            self._flush()
        elif not self._from_peer.pending:
            kernel.acknowledge(self._connected)
        # All that a TLS 1.3 server still has to send is a session ticket: it leaves with the first bytes.
        self._held_back = self._to_peer.pending
        self._bare_records = 0
        self.handshake.set_result(None)
        self._above.connection_made(self)
        return not self._connected.is_closing()

    def _read(self) -> None:
        """Pass on everything that has arrived as one piece. It fits: plaintext is not longer than its ciphertext.

        What OpenSSL has written meanwhile is sent, such as the alert that declines a renegotiation. A peer that only
        makes it do so is dropped.
        """
        room, size, filled = self._core.read_buffer.room, 0, 0
        try:
            while self._from_peer.pending or self._tls.pending():
                got = self._tls.read(len(room), room[size:])
                if not got:
                    self._ended = True
                    break
                size += cast(int, got)
                filled += 1
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # the end, when this side has ended its direction before
            self._ended = True
        self._bare_records -= filled
        if self._bare_records > _MOST_BARE_RECORDS:
            self._fail(ConnectionAbortedError("the peer sends TLS records without data"))
            return
        if self._to_peer.pending > self._held_back:
            self._flush()
        if self._closing:
            if self._ended:
                self._connected.close()
            return
        if size:
            self._above.buffer_updated(size)
        if self._ended:
            self._end()

    def _read_rest(self, tcp: asyncio.Transport) -> None:
        """Read what had arrived when the connection was lost."""
        for size in kernel.receive_rest(tcp, self._core.ciphertext):
            self.buffer_updated(size)
            if self._aborted:
                return

    def _end(self) -> None:
        """The peer has ended its direction. Unless the protocol above goes on, that ends both."""
        self._ended = True
        if not self._closing and not self._above.eof_received():
            self.close()

    def _notify(self) -> None:
        """Send close_notify, once."""
        if self._notified:
            return
        self._notified = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # usually SSLWantReadError: the peer has not sent its close_notify
            pass
        self._flush()

    def _flush(self) -> None:
        if self._to_peer.pending and not self._connected.is_closing():
            self._held_back = 0
            self._connected.write(self._to_peer.read())

    def _fail(self, error: OSError) -> None:
        """Send the alert that OpenSSL has written for `error`, if any, and drop the connection."""
        self._error = error
        fail(self.handshake, error)
        self._flush()
        self.abort()
