"""Reading a ClientHello out of the first bytes of a connection, without consuming them.

A pure function over bytes: parsed, need more, or invalid; it never raises. It reads the server name, ALPN and key
exchange groups. Of the rest it checks only how long the lists are that OpenSSL would search.
"""

from dataclasses import dataclass
from typing import Final

from portway_runtime.parse_results import Invalid, NeedMore

# Bytes. RFC 8446 allows 16 MiB. Post-quantum key shares and a few tickets take 4 KiB; the largest hello seen had
# 17 KiB. One of twice that size can only be an attempt to use up memory.
MAX_HELLO: Final = 32 * 1024

# The smallest records that a TLS library can be configured to write hold 512 bytes. With each further record all
# records before it are parsed again: 32 KiB in records of one byte would cost seconds of processor time.
MAX_RECORDS: Final = MAX_HELLO // 512

# Entries. OpenSSL searches the list of groups for each key share, and reading 32 KiB of extensions or protocols here
# costs more than a handshake. IANA names some 60 groups and as many extensions; nobody sends more than four key shares
# or ten protocols.
MAX_EXTENSIONS: Final = 128
MAX_PROTOCOLS: Final = 64
MAX_GROUPS: Final = 64
MAX_SHARES: Final = 16

_RECORD_HEADER: Final = 5
_MAX_RECORD: Final = 16 * 1024
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_GROUPS: Final = 10
_ALPN: Final = 16
_SHARES: Final = 51
_READ: Final = (_SERVER_NAME, _GROUPS, _ALPN, _SHARES)
_HOST_NAME: Final = 0


@dataclass(frozen=True, slots=True)
class Parsed:
    """A whole ClientHello: its server name as sent (None without one), the ALPN protocols and key exchange groups it
    offers, in order, and the groups that it has sent a key share for."""

    sni: str | None
    alpn: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    shares: tuple[int, ...] = ()


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
    groups: tuple[int, ...] = ()
    shares: tuple[int, ...] = ()
    seen: list[int] = []
    extensions = 0
    while position < end:
        extensions += 1
        if extensions > MAX_EXTENSIONS:
            raise _Malformed(f"more than {MAX_EXTENSIONS} extensions")
        kind, start = _number(body, position), position + 4
        position = start + _number(body, position + 2)
        if position > end:
            raise IndexError
        if kind in _READ:
            if kind in seen:
                raise _Malformed(f"extension {kind} twice")
            seen.append(kind)
            content = body[start:position]
            if kind == _SERVER_NAME:
                sni = _parse_server_name(content)
            elif kind == _ALPN:
                alpn = _parse_alpn(content)
            elif kind == _GROUPS:
                groups = _parse_groups(content)
            else:
                shares = _parse_shares(content)
    return Parsed(sni, alpn, groups, shares)


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
    found: list[str] = []
    while position < len(protocols):
        if len(found) == MAX_PROTOCOLS:
            raise _Malformed(f"more than {MAX_PROTOCOLS} protocols")
        start = position + 1
        position = start + protocols[position]
        if position > len(protocols):
            raise IndexError
        found.append(protocols[start:position].decode("latin-1"))
    return tuple(found)


def _parse_groups(content: bytes) -> tuple[int, ...]:
    groups = _list(content)
    if len(groups) > 2 * MAX_GROUPS:
        raise _Malformed(f"{len(groups) // 2} key exchange groups")
    return tuple(_number(groups, position) for position in range(0, len(groups), 2))


def _parse_shares(content: bytes) -> tuple[int, ...]:
    """The groups of the key shares."""
    shares, position = _list(content), 0
    found: list[int] = []
    while position < len(shares):
        if len(found) == MAX_SHARES:
            raise _Malformed(f"more than {MAX_SHARES} key shares")
        found.append(_number(shares, position))
        position += 4 + _number(shares, position + 2)
        if position > len(shares):
            raise IndexError
    return tuple(found)
