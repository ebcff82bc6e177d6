"""A stranger at a registry's port that speaks HTTP/2 by hand: calls as no gRPC library would make them.

Each call is some thirty bytes: after the first one its headers are references to what HTTP/2's compression remembers.
"""

import socket
import ssl
import threading
import time
from contextlib import suppress
from enum import Enum
from typing import Final, Self

from portway_testkit.visitors.going_on import GoingOn
from portway_testkit.waiting import PATIENCE

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_READ: Final = 65_536
# Calls in one write.
_TOGETHER: Final = 20
_SOON: Final = 5.0  # seconds, after which one of many strangers tries another connection


class Call(Enum):
    """How much of a call is sent."""

    HEADERS = "headers"  # and never its message
    WHOLE = "whole"


class Http2Stranger:
    """One connection, from an address of the loopback that is the caller's choice."""

    def __init__(self, host: str, port: int, method: str, *, source: str, within: float = PATIENCE) -> None:
        """Connect; each wait lasts `within` seconds at most. Raises OSError."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection((host, port), within, (source, 0))
        try:
            self._sock = context.wrap_socket(plain, server_hostname="localhost")
            self._sock.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b""))
            self._sock.recv(_READ)  # gRPC's settings; it accepts few calls until they are acknowledged
            self._sock.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        except BaseException:
            plain.close()
            raise
        self._within = within
        self._method = method.encode()
        self._stream = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def call(self, count: int, kind: Call) -> None:
        """Begin `count` calls without a token. Raises OSError when the registry has ended the connection."""
        sent = bytearray()
        for _ in range(count):
            block = _first_headers(self._method) if self._stream < 0 else _LATER_HEADERS
            self._stream = max(1, self._stream + 2)
            sent += _frame(_HEADERS, _END_HEADERS, self._stream, block)
            if kind is Call.WHOLE:
                sent += _frame(_DATA, _END_STREAM, self._stream, b"\0\0\0\0\0")
        self._sock.sendall(sent)

    def ended(self) -> bool:
        """Whether the registry has ended the connection; what it sent until now is read."""
        self._sock.settimeout(0)
        try:
            while self._sock.recv(_READ):
                pass
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        except OSError:
            pass
        finally:
            with suppress(OSError):
                self._sock.settimeout(self._within)
        return True


class Strangers(GoingOn):
    """Strangers that call as fast as one thread each can, at most `rate` calls per second in all, until the block ends.

    A connection that the registry ends is opened again.
    """

    def __init__(self, host: str, port: int, method: str, kind: Call, *, sources: tuple[str, ...], rate: float) -> None:
        """sources: the address of each."""
        self._host = host
        self._port = port
        self._method = method
        self._kind = kind
        self._pause = _TOGETHER * len(sources) / rate
        super().__init__(threading.Thread(target=self._run, args=(source,)) for source in sources)
        self.calls = 0
        self.connections = 0

    def _run(self, source: str) -> None:
        while not self._over.is_set():
            try:
                with Http2Stranger(self._host, self._port, self._method, source=source, within=_SOON) as stranger:
                    self.connections += 1
                    self._call(stranger)
            except OSError:
                self._over.wait(0.01)

    def _call(self, stranger: Http2Stranger) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic() - 1) + self._pause
            stranger.call(_TOGETHER, self._kind)
            self.calls += _TOGETHER
            if stranger.ended():
                return


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _remembered(index: int, value: bytes, name: bytes = b"") -> bytes:
    """A header field that is remembered; its name is number `index` of the static table (RFC 7541), or `name`."""
    head = bytes([0x40 | index]) if index else b"\x40" + bytes([len(name)]) + name
    return head + bytes([len(value)]) + value


def _first_headers(method: bytes) -> bytes:
    """POST, https, and four fields that get the numbers 65 to 62."""
    fields = _remembered(4, method) + _remembered(1, b"localhost")
    fields += _remembered(0, b"application/grpc", b"content-type") + _remembered(0, b"trailers", b"te")
    return b"\x83\x87" + fields


_LATER_HEADERS: Final = b"\x83\x87" + bytes([0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62])
