"""A TLS visitor whose every record and every end is the test's choice, over a blocking socket."""

import select
import socket
import ssl
from typing import Self

from portway_runtime.endpoints import Endpoint

from portway_testkit.visitors.visiting import TIMEOUT

_PIECE = 64 * 1024


class HandTls:
    """`with HandTls(address, context, "node.test") as visitor:` has its handshake done; its socket is not set to
    TCP_NODELAY."""

    def __init__(self, address: Endpoint, context: ssl.SSLContext, name: str) -> None:
        self.sock = socket.create_connection((address.host, address.port), timeout=TIMEOUT)
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=name)
        self.end = ""  # "close_notify", "FIN" or "reset", once it has come
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._received.write(self.sock.recv(_PIECE))
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def notify(self) -> None:
        """Send close_notify, and nothing else."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self._flush()

    def receive(self, size: int | None = None) -> bytes:
        """`size` bytes, or all until the first end, which is in `end` then."""
        received = bytearray()
        while not self.end and (size is None or len(received) < size):
            self._hear(received)
        return bytes(received)

    def upload(self, size: int) -> bytes:
        """Send `size` bytes and read meanwhile, until an end has come; all that was read. As the best of libraries it
        goes on reading when a write has failed."""
        self.sock.setblocking(False)
        received, waiting, sent = bytearray(), b"", 0
        while not self.end:
            wants = [self.sock] if waiting or sent < size else []
            readable, writable, _ = select.select([self.sock], wants, [], TIMEOUT)
            assert readable or writable, f"nothing happens after {sent} bytes, {len(received)} were read"
            if readable:
                self._hear(received)
            elif not waiting:
                self._tls.write(bytes(_PIECE))
                waiting, sent = self._to_send.read(), sent + _PIECE
            else:
                try:
                    waiting = waiting[self.sock.send(waiting) :]
                except (BrokenPipeError, ConnectionResetError):
                    waiting, sent = b"", size
        return bytes(received)

    def _hear(self, received: bytearray) -> None:
        try:
            data = self.sock.recv(_PIECE)
        except ConnectionResetError:
            self.end = "reset"
            return
        self._received.write(data)
        try:
            while plain := self._tls.read(_PIECE):
                received += plain
            self.end = "close_notify"
        except ssl.SSLZeroReturnError:
            self.end = "close_notify"
        except ssl.SSLWantReadError:
            if not data:
                self.end = "FIN"

    def _flush(self) -> None:
        if self._to_send.pending:
            self.sock.sendall(self._to_send.read())
