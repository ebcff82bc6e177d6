"""Reading a ClientHello out of the first bytes of a connection, without consuming them.

A pure function over bytes: parsed, need more, or invalid; it never raises. It reads what a route needs (server name,
ALPN) and judges nothing else: whether the hello is any good is for TLS to say.
"""

from dataclasses import dataclass
from typing import Final

# RFC 8446 allows 16 MiB. Post-quantum key shares and a few tickets come to 4 KiB, the largest that was seen to
# 17 KiB; beyond twice that it is somebody who wants our memory.
MAX_HELLO: Final = 32 * 1024

# The smallest records a TLS library can be told to make hold 512 bytes. Each one more is a parse more of all before
# it: a hello in records of one byte would buy seconds of the processor for 32 KiB.
MAX_RECORDS: Final = MAX_HELLO // 512

_RECORD_HEADER: Final = 5
_MAX_RECORD: Final = 16 * 1024
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_HOST_NAME: Final = 0


@dataclass(frozen=True, slots=True)
class Parsed:
    """A whole ClientHello: its server name as sent (None without one) and the protocols it offers, in its order."""

    sni: str | None
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NeedMore:
    """No whole ClientHello before at least `size` bytes in all are there."""

    size: int


@dataclass(frozen=True, slots=True)
class Invalid:
    """No ClientHello, and none can become of it."""

    reason: str


class _Malformed(Exception):
    pass


def parse(data: bytes) -> Parsed | NeedMore | Invalid:
    """What the first bytes of a connection are."""
    message = bytearray()
    position = 0
    for _ in range(MAX_RECORDS):
        header = data[position : position + _RECORD_HEADER]
        if header and header[0] != _HANDSHAKE:
            return Invalid("not a TLS handshake")
        if len(header) > 1 and header[1] != 3:
            return Invalid("not a version of TLS")
        if len(header) < _RECORD_HEADER:
            return NeedMore(position + _RECORD_HEADER)
        length = int.from_bytes(header[3:5])
        if not 0 < length <= _MAX_RECORD:
            return Invalid(f"a record of {length} bytes")
        body = data[position + _RECORD_HEADER : position + _RECORD_HEADER + length]
        message += body
        position += _RECORD_HEADER + length
        if message and message[0] != _CLIENT_HELLO:
            return Invalid("not a ClientHello")
        if len(message) >= 4:
            whole = 4 + int.from_bytes(message[1:4])
            if whole > MAX_HELLO:
                return Invalid(f"a ClientHello of {whole} bytes")
            if len(message) >= whole:
                return _parse_message(bytes(message[4:whole]))
        if len(body) < length:
            return NeedMore(position)
    return Invalid(f"a ClientHello in more than {MAX_RECORDS} records")


class _Reader:
    """Takes fields off the front of `data`."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def __bool__(self) -> bool:
        return self.position < len(self.data)

    def take(self, size: int) -> bytes:
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise _Malformed("a field ends behind the message")
        return self.data[start : self.position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))


def _parse_message(body: bytes) -> Parsed | Invalid:
    try:
        return _read_message(body)
    except _Malformed as error:
        return Invalid(str(error))


def _read_message(body: bytes) -> Parsed:
    reader = _Reader(body)
    reader.take(2 + 32)  # version, random
    reader.vector(1)  # session id
    reader.vector(2)  # cipher suites
    reader.vector(1)  # compression methods
    sni: str | None = None
    alpn: tuple[str, ...] = ()
    if reader:
        seen: set[int] = set()
        extensions = _Reader(reader.vector(2))
        while extensions:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind in (_SERVER_NAME, _ALPN) and kind in seen:
                raise _Malformed(f"extension {kind} twice")
            seen.add(kind)
            if kind == _SERVER_NAME:
                sni = _parse_server_name(content)
            elif kind == _ALPN:
                alpn = _parse_alpn(content)
    return Parsed(sni, alpn)


def _parse_server_name(content: bytes) -> str | None:
    names = _Reader(_Reader(content).vector(2))
    while names:
        kind, name = names.number(1), names.vector(2)
        if kind == _HOST_NAME:
            try:
                return name.decode("ascii")
            except UnicodeDecodeError:
                raise _Malformed("a server name that is not ASCII") from None
    return None


def _parse_alpn(content: bytes) -> tuple[str, ...]:
    protocols = _Reader(_Reader(content).vector(2))
    found = []
    while protocols:
        found.append(protocols.vector(1).decode("latin-1"))
    return tuple(found)
