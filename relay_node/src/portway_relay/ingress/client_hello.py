"""Reading a ClientHello out of the first bytes of a connection, without consuming them.

A pure function over bytes: parsed, need more, or invalid; it never raises. It reads the server name and ALPN, and
checks nothing else: whether the hello is acceptable is for TLS to decide.
"""

from dataclasses import dataclass
from typing import Final

# Bytes. RFC 8446 allows 16 MiB. Post-quantum key shares and a few tickets take 4 KiB; the largest hello seen had
# 17 KiB. One of twice that size can only be an attempt to use up memory.
MAX_HELLO: Final = 32 * 1024

# The smallest records that a TLS library can be configured to write hold 512 bytes. With each further record all
# records before it are parsed again: 32 KiB in records of one byte would cost seconds of processor time.
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
    """A whole ClientHello: its server name as sent (None without one) and the ALPN protocols it offers, in order."""

    sni: str | None
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NeedMore:
    """The ClientHello is incomplete: at least `size` bytes from the beginning are needed."""

    size: int


@dataclass(frozen=True, slots=True)
class Invalid:
    """Not a ClientHello, whatever follows."""

    reason: str


class _Malformed(Exception):
    pass


def parse(data: bytes) -> Parsed | NeedMore | Invalid:
    """Parse the first bytes of a connection."""
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


def _parse_message(body: bytes) -> Parsed | Invalid:
    try:
        return _read_message(body)
    except IndexError:
        return Invalid("a field ends beyond the message")
    except _Malformed as error:
        return Invalid(str(error))


def _read_message(body: bytes) -> Parsed:
    """Read a ClientHello's body. Raises IndexError and _Malformed.

    Every visit passes here: indexes take a third of the time of a reader with methods. An index beyond the end raises
    IndexError; slices and skipped fields are checked by hand.
    """
    position = 2 + 32  # version, random
    position += 1 + body[position]  # session id
    position += 2 + _number(body, position)  # cipher suites
    position += 1 + body[position]  # compression methods
    if position == len(body):
        return Parsed(None)
    end = position + 2 + _number(body, position)
    if end > len(body):
        raise IndexError
    position += 2
    sni: str | None = None
    alpn: tuple[str, ...] = ()
    seen: list[int] = []
    while position < end:
        kind, start = _number(body, position), position + 4
        position = start + _number(body, position + 2)
        if position > end:
            raise IndexError
        if kind in (_SERVER_NAME, _ALPN):
            if kind in seen:
                raise _Malformed(f"extension {kind} twice")
            seen.append(kind)
            if kind == _SERVER_NAME:
                sni = _parse_server_name(body[start:position])
            else:
                alpn = _parse_alpn(body[start:position])
    return Parsed(sni, alpn)


def _number(data: bytes, position: int) -> int:
    return data[position] << 8 | data[position + 1]


def _list(content: bytes) -> bytes:
    """The content of a list that is preceded by its length in two bytes."""
    end = 2 + _number(content, 0)
    if end > len(content):
        raise IndexError
    return content[2:end]


def _parse_server_name(content: bytes) -> str | None:
    names, position = _list(content), 0
    while position < len(names):
        kind, start = names[position], position + 3
        position = start + _number(names, position + 1)
        if position > len(names):
            raise IndexError
        if kind == _HOST_NAME:
            try:
                return names[start:position].decode("ascii")
            except UnicodeDecodeError:
                raise _Malformed("a server name that is not ASCII") from None
    return None


def _parse_alpn(content: bytes) -> tuple[str, ...]:
    protocols, position = _list(content), 0
    found = []
    while position < len(protocols):
        start = position + 1
        position = start + protocols[position]
        if position > len(protocols):
            raise IndexError
        found.append(protocols[start:position].decode("latin-1"))
    return tuple(found)
