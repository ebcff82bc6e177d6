"""HAProxy's PROXY protocol, versions 1 and 2: whose connection a proxy passes on, in the bytes before all others.

Pure functions over bytes. Reading: parsed, need more, or invalid; it never raises, and what it reads is bounded. Here
too: the TLVs that tell of the visitor's TLS. Not here: whose headers are believed, waiting for them, sockets.
"""

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from portway_runtime.endpoints import MAX_PORT, Endpoint
from portway_runtime.parse_results import Invalid, NeedMore

# Bytes. The specification's limit of a line of version 1, with its end.
MAX_V1: Final = 107
# Bytes. A header of version 2 could have 64 KiB; those of load balancers have 28 to 200, with the subject of a client's
# certificate a few hundred more. It fits into one segment of any network only up to 1,400.
MAX_V2: Final = 2048

_V1: Final = b"PROXY "
_V1_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD: Final = struct.Struct("!12sBBH")
_V2_LOCAL: Final = 0x20
_V2_PROXY: Final = 0x21
_PORTS: Final = struct.Struct("!HH")
_TLV: Final = struct.Struct("!BH")
_SSL: Final = struct.Struct("!BI")
_SSL_CLIENT: Final = 0x01  # the visitor came over TLS
_SSL_UNVERIFIED: Final = 1  # anything but 0, which says that the visitor showed a certificate and that it is valid
_STREAM: Final = 1

# What an address block of version 2 has: the socket's family, and the bytes of one address. 3 is AF_UNIX.
_FAMILIES: Final = {
    0: (socket.AF_UNSPEC, 0),
    1: (socket.AF_INET, 4),
    2: (socket.AF_INET6, 16),
    3: (socket.AF_UNSPEC, 108),
}
_MAPPED: Final = bytes(10) + b"\xff\xff"  # what ::ffff:a.b.c.d begins with


class TlvType(IntEnum):
    """Types of TLVs that Portway writes (section 2.2 of the specification)."""

    ALPN = 0x01
    AUTHORITY = 0x02
    SSL = 0x20
    SSL_VERSION = 0x21


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Whose connection is passed on, and where it was made to: IP addresses, IPv4 ones never mapped into IPv6.

    Without `source` it is the sender's own: a health check, or it does not know. `tlvs`: type and value, in order.
    """

    source: Endpoint | None
    destination: Endpoint | None
    tlvs: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """A whole header, and the number of bytes that it takes."""

    header: ProxyHeader
    length: int


class _Malformed(Exception):
    pass


def parse(data: bytes) -> Parsed | NeedMore | Invalid:
    """Read the header, of either version, that the first bytes of a connection are. Checksums are not looked at."""
    if not data:
        return NeedMore(1)
    if data[: len(_V2)] == _V2[: len(data)]:
        return _parse_v2(data)
    if data[: len(_V1)] == _V1[: len(data)]:
        return _parse_v1(data)
    return Invalid("not a PROXY header")


def encode_v1(header: ProxyHeader) -> bytes:
    """The line of version 1, which has no place for TLVs. Raises ValueError for a host that is not an IP address."""
    if header.source is None or header.destination is None:
        return b"PROXY UNKNOWN\r\n"
    family, source, destination = _packed(header.source, header.destination)
    name = "TCP4" if family == socket.AF_INET else "TCP6"
    hosts = f"{socket.inet_ntop(family, source)} {socket.inet_ntop(family, destination)}"
    return f"PROXY {name} {hosts} {header.source.port} {header.destination.port}\r\n".encode()


def encode_v2(header: ProxyHeader) -> bytes:
    """The header of version 2. Raises ValueError for a host that is not an IP address, and above MAX_V2 bytes."""
    tlvs = _encode_tlvs(header.tlvs)
    if header.source is None or header.destination is None:
        command, kind, addresses = _V2_PROXY if tlvs else _V2_LOCAL, 0, b""
    else:
        family, source, destination = _packed(header.source, header.destination)
        command, kind = _V2_PROXY, (1 if family == socket.AF_INET else 2) << 4 | _STREAM
        addresses = source + destination + _PORTS.pack(header.source.port, header.destination.port)
    length = len(addresses) + len(tlvs)
    if _V2_HEAD.size + length > MAX_V2:
        raise ValueError(f"a PROXY header of {_V2_HEAD.size + length} bytes; {MAX_V2} are allowed")
    return _V2_HEAD.pack(_V2, command, kind, length) + addresses + tlvs


def tls_tlvs(*, version: str, server_name: str, alpn: str) -> tuple[tuple[int, bytes], ...]:
    """What is told of a visitor's TLS, which has ended here: its version ("TLSv1.3"), the server name and the ALPN
    protocol, each ASCII, or "" for what is not known. With the version goes that no certificate was asked for."""
    found: list[tuple[int, bytes]] = []
    if alpn:
        found.append((TlvType.ALPN, alpn.encode("ascii")))
    if server_name:
        found.append((TlvType.AUTHORITY, server_name.encode("ascii")))
    if version:
        about = _encode_tlvs([(TlvType.SSL_VERSION, version.encode("ascii"))])
        found.append((TlvType.SSL, _SSL.pack(_SSL_CLIENT, _SSL_UNVERIFIED) + about))
    return tuple(found)


def _encode_tlvs(tlvs: Iterable[tuple[int, bytes]]) -> bytes:
    try:
        return b"".join(_TLV.pack(kind, len(value)) + value for kind, value in tlvs)
    except struct.error:
        raise ValueError("a TLV has a type of 0 to 255 and at most 65535 bytes") from None


def _parse_v1(data: bytes) -> Parsed | NeedMore | Invalid:
    if len(data) < _V1_SHORTEST:
        return NeedMore(_V1_SHORTEST)
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        return NeedMore(len(data) + 1) if len(data) < MAX_V1 else Invalid(f"a line of more than {MAX_V1} bytes")
    words = data[:end].split(b" ")
    if words[1] == b"UNKNOWN":
        return Parsed(ProxyHeader(None, None), end + 2)
    family = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}.get(words[1])
    if family is None or len(words) != 6:
        return Invalid("a line of another form")
    try:
        source = Endpoint(_written_address(family, words[2]), _written_port(words[4]))
        destination = Endpoint(_written_address(family, words[3]), _written_port(words[5]))
    except _Malformed as error:
        return Invalid(str(error))
    return Parsed(ProxyHeader(source, destination), end + 2)


def _parse_v2(data: bytes) -> Parsed | NeedMore | Invalid:
    if len(data) < _V2_HEAD.size:
        return NeedMore(_V2_HEAD.size)
    _, command, kind, size = _V2_HEAD.unpack_from(data)
    end = _V2_HEAD.size + size
    if command not in (_V2_LOCAL, _V2_PROXY):
        return Invalid("another version than 1 and 2, or an unknown command")
    if end > MAX_V2:
        return Invalid(f"a header of {end} bytes")
    if command == _V2_PROXY and (kind >> 4 not in _FAMILIES or kind & 15 > 2):
        return Invalid("an unknown family of addresses or an unknown transport")
    if len(data) < end:
        return NeedMore(end)
    if command == _V2_LOCAL:  # what follows has no meaning
        return Parsed(ProxyHeader(None, None), end)
    try:
        return Parsed(_read_v2(kind >> 4, data[_V2_HEAD.size : end]), end)
    except _Malformed as error:
        return Invalid(str(error))


def _read_v2(kind: int, body: bytes) -> ProxyHeader:
    family, size = _FAMILIES[kind]
    rest = 2 * size + (_PORTS.size if family != socket.AF_UNSPEC else 0)
    if len(body) < rest:
        raise _Malformed("an address ends beyond the header")
    tlvs = _read_tlvs(body, rest)
    if family == socket.AF_UNSPEC:
        return ProxyHeader(None, None, tlvs)
    source_port, destination_port = _PORTS.unpack_from(body, 2 * size)
    return ProxyHeader(
        Endpoint(_address(body[:size]), source_port),
        Endpoint(_address(body[size : 2 * size]), destination_port),
        tlvs,
    )


def _read_tlvs(body: bytes, position: int) -> tuple[tuple[int, bytes], ...]:
    found: list[tuple[int, bytes]] = []
    while position < len(body):
        start = position + _TLV.size
        if start > len(body):
            raise _Malformed("a TLV ends beyond the header")
        kind, length = _TLV.unpack_from(body, position)
        position = start + length
        if position > len(body):
            raise _Malformed("a TLV ends beyond the header")
        found.append((kind, body[start:position]))
    return tuple(found)


def _written_address(family: socket.AddressFamily, text: bytes) -> str:
    """The address that stands in a line. Raises _Malformed."""
    try:
        packed = socket.inet_pton(family, text.decode("ascii"))
    except (OSError, ValueError):
        raise _Malformed("not an IP address") from None
    if family == socket.AF_INET and socket.inet_ntop(family, packed).encode() != text:
        raise _Malformed("not an IP address")  # a libc that reads 010 may read it as 8 or as 10
    return _address(packed)


def _written_port(text: bytes) -> int:
    """Raises _Malformed."""
    if not text.isdigit() or len(text) > 5 or (len(text) > 1 and text[:1] == b"0") or int(text) > MAX_PORT:
        raise _Malformed("not a port")
    return int(text)


def _address(packed: bytes) -> str:
    if packed.startswith(_MAPPED) and len(packed) == 16:
        packed = packed[len(_MAPPED) :]
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _packed(*endpoints: Endpoint) -> tuple[socket.AddressFamily, bytes, bytes]:
    """Two addresses in one family, which is IPv4 when both are. Raises ValueError."""
    source, destination = (_packed_address(one.host) for one in endpoints)
    if len(source) == len(destination) == 4:
        return socket.AF_INET, source, destination
    return socket.AF_INET6, _mapped(source), _mapped(destination)


def _packed_address(host: str) -> bytes:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        packed = socket.inet_pton(family, host.partition("%")[0])
    except (OSError, ValueError):
        raise ValueError(f"{host!r} is not an IP address") from None
    return packed[len(_MAPPED) :] if packed.startswith(_MAPPED) and len(packed) == 16 else packed


def _mapped(packed: bytes) -> bytes:
    return _MAPPED + packed if len(packed) == 4 else packed
