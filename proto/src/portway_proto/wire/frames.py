"""Frames: a type of one byte, a length of three bytes (big-endian), the payload.

Here: the types, encoding a frame, splitting a byte stream into frames, the payloads of a visit's frames. Not here:
which frame is allowed when (lane.py), the payloads of control frames (portway/v1/lane.proto).
"""

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from portway_proto.wire.errors import FrameTooLarge, RemoteProtocolError
from portway_proto.wire.limits import HEADER_SIZE, MAX_CONTROL, MAX_DATA, MAX_OPEN_LABEL, MAX_PING, MAX_VISIT_FRAME

# An unknown type is skipped from here on, and an error below.
FIRST_SKIPPABLE: Final = 0x80


class FrameType(IntEnum):
    # Frames of a visit.
    DATA = 0x01
    OPEN = 0x02
    OPENED = 0x03
    REFUSED = 0x04
    END = 0x05
    RESET = 0x06
    # On any lane.
    PING = 0x08
    PONG = 0x09
    RETIRE = 0x0A
    FAIL = 0x0B
    # First on a lane.
    HELLO = 0x10
    PARK = 0x11
    # On a control lane.
    WELCOME = 0x12
    BIND = 0x13
    BOUND = 0x14
    BIND_REFUSED = 0x15
    UNBIND = 0x16
    UNBOUND = 0x17
    WANT = 0x18
    GOAWAY = 0x19
    PRESENCE = 0x1A
    # Between nodes.
    PEER = 0x20
    ROUTES = 0x21
    ASK = 0x22
    ANSWER = 0x23
    ROUTES_HEARD = 0x24
    # Skipped by peers that do not know them yet.
    MOVED = 0x80


_VISIT_TYPES: Final = frozenset({FrameType.OPEN, FrameType.OPENED, FrameType.REFUSED, FrameType.END, FrameType.RESET})
_LIMITS: Final[dict[int, int]] = {
    int(frame_type): MAX_VISIT_FRAME if frame_type in _VISIT_TYPES else MAX_CONTROL for frame_type in FrameType
} | {FrameType.DATA: MAX_DATA, FrameType.PING: MAX_PING, FrameType.PONG: MAX_PING, FrameType.RETIRE: 0}

_HEADER: Final = struct.Struct(">I")
_NUMBER: Final = struct.Struct(">I")
_OPEN_START: Final = struct.Struct(">IBB")  # number, kind, length of the label
_REFUSED_START: Final = struct.Struct(">IB")  # number, reason
_PORT: Final = struct.Struct(">H")
_TLS_START: Final = struct.Struct(">HB")  # version, length of the server name
_pack_header = _HEADER.pack

Bytes = bytes | bytearray | memoryview


def encode_frame(frame_type: int, payload: bytes = b"") -> bytes:
    """The bytes of a frame. Raises ValueError when the payload is over its type's limit."""
    limit = _LIMITS.get(frame_type, MAX_CONTROL)
    if len(payload) > limit:
        raise ValueError(f"payload of {len(payload)} bytes is over the limit of {limit} for 0x{frame_type:02x}")
    return _pack_header(frame_type << 24 | len(payload)) + payload


def data_header(length: int) -> bytes:
    """The header of a DATA frame with a payload of `length` bytes, at most MAX_DATA."""
    return _pack_header(0x01000000 | length)


class FrameReader:
    """Splits a lane's byte stream into frames.

    DATA is passed on in pieces, as it arrives; every other frame is passed on whole. Unknown types from 0x80 on are
    skipped. The reader buffers at most one frame that is not DATA, and copies each byte of it once, however small the
    pieces in which it arrives.
    """

    __slots__ = ("_body", "_header", "_left", "_skips", "_type")

    def __init__(self) -> None:
        self._header = bytearray()  # the bytes of an incomplete header
        self._type = 0
        self._skips = False  # the current frame's type is unknown
        self._left = 0  # bytes of the current frame's payload that have not arrived
        self._body = bytearray()  # the payload so far, unless the frame is DATA or skipped

    def whole_data(self, received: Bytes) -> bool:
        """Whether `received` is exactly one whole DATA frame, and no other frame is incomplete: its payload is then
        everything after its header, and `feed` need not be called.

        Most reads of a busy lane are of this kind. The call changes no state; when it returns False, call `feed`.
        """
        return (
            len(received) > HEADER_SIZE
            and received[0] == 1
            and not self._left
            and not self._header
            and _HEADER.unpack_from(received)[0] == 0x01000000 | (size := len(received) - HEADER_SIZE)
            and size <= MAX_DATA
        )

    def feed(self, received: Bytes) -> list[tuple[int, Bytes]]:
        """The frames (type, payload) that `received` completes, and pieces of DATA, in order.

        Payloads of DATA are views of `received`. Raises RemoteProtocolError for an unknown type below 0x80 and
        FrameTooLarge above a type's limit. The frames before it in `received` are lost then, and the reader must not
        be used again.
        """
        frames: list[tuple[int, Bytes]] = []
        view = memoryview(received)
        position, size = 0, len(view)
        while position < size:
            if self._left:
                piece = view[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                if self._type == FrameType.DATA:
                    frames.append((FrameType.DATA, piece))
                elif not self._skips:
                    self._gather(piece, frames)
                continue
            if self._header or size - position < HEADER_SIZE:
                missing = view[position : position + HEADER_SIZE - len(self._header)]
                position += len(missing)
                self._header += missing
                if len(self._header) < HEADER_SIZE:
                    break
                (word,) = _HEADER.unpack(self._header)
                self._header.clear()
            else:
                (word,) = _HEADER.unpack_from(view, position)
                position += HEADER_SIZE
            self._begin(word >> 24, word & 0xFFFFFF, frames)
        return frames

    def _begin(self, frame_type: int, length: int, frames: list[tuple[int, Bytes]]) -> None:
        limit = _LIMITS.get(frame_type)
        if limit is None:
            if frame_type < FIRST_SKIPPABLE:
                raise RemoteProtocolError(f"unknown frame type 0x{frame_type:02x}")
            limit = MAX_CONTROL
        if length > limit:
            raise FrameTooLarge(frame_type, length, limit)
        self._type = frame_type
        self._skips = frame_type not in _LIMITS
        self._left = length
        if length == 0 and not self._skips and frame_type != FrameType.DATA:
            frames.append((frame_type, b""))

    def _gather(self, piece: memoryview, frames: list[tuple[int, Bytes]]) -> None:
        """Buffer a piece of the current frame's payload, or append the frame if it is complete now."""
        if self._left:
            self._body += piece
        elif self._body:
            self._body += piece
            frames.append((self._type, bytes(self._body)))
            self._body.clear()
        else:
            frames.append((self._type, bytes(piece)))


class VisitKind(IntEnum):
    """How the visitor connected: to a TLS address, or to a raw TCP port."""

    TLS = 0
    RAW = 1


@dataclass(frozen=True, slots=True)
class Opening:
    """The contents of OPEN, beside the visit's number: the label that is visited, the visitor's address, and what the
    visitor's TLS came to, which peers of earlier releases do not say.

    `visitor_host` is an IPv4 or IPv6 address as text. `tls_version` is TLS's own number (0x0304 is 1.3), or 0.
    """

    label: str
    visitor_host: str
    visitor_port: int
    kind: VisitKind = VisitKind.TLS
    tls_version: int = 0
    server_name: str = ""
    alpn: str = ""


class RefusalReason(IntEnum):
    """Why a visit was not taken. A reason that is not known here is decoded as OTHER."""

    OTHER = 0
    NOT_HERE = 1  # this peer does not hold the label, or no longer
    UNREACHABLE = 2  # the local server does not accept connections
    OVERLOADED = 3
    SHUTDOWN = 4


def encode_open(number: int, opening: Opening) -> bytes:
    """The OPEN frame. What is said of TLS is left out where the rest leaves no room for it. Raises ValueError when the
    address is not an IP address, or a name, the protocol, version or port do not fit."""
    address = _packed_address(opening.visitor_host)
    label = opening.label.encode("ascii")
    if len(label) > MAX_OPEN_LABEL:
        raise ValueError(f"a label of {len(label)} characters; at most {MAX_OPEN_LABEL} fit")
    if not 0 <= opening.visitor_port <= 0xFFFF:
        raise ValueError(f"visitor port {opening.visitor_port} is outside 0 to 65535")
    payload = b"".join(
        (
            _OPEN_START.pack(number, opening.kind, len(label)),
            label,
            len(address).to_bytes(),
            address,
            _PORT.pack(opening.visitor_port),
        )
    )
    tls = _encode_tls(opening)
    return encode_frame(FrameType.OPEN, payload + tls if len(payload) + len(tls) <= MAX_VISIT_FRAME else payload)


def _encode_tls(opening: Opening) -> bytes:
    if not (opening.tls_version or opening.server_name or opening.alpn):
        return b""
    server_name, alpn = opening.server_name.encode("ascii"), opening.alpn.encode("ascii")
    try:
        return _TLS_START.pack(opening.tls_version, len(server_name)) + server_name + len(alpn).to_bytes() + alpn
    except (struct.error, OverflowError):
        raise ValueError("a TLS version, a server name or an ALPN protocol does not fit") from None


def _packed_address(host: str) -> bytes:
    """Raises ValueError when `host` is not an IP address."""
    try:
        packed = bytes(map(int, host.split(".")))  # saves 3 µs of every visit over ipaddress
    except ValueError:
        packed = b""
    if len(packed) == 4 and _address_text(packed) == host:
        return packed
    return _plain_address(ipaddress.ip_address(host.partition("%")[0])).packed


def _address_text(packed: bytes) -> str:
    if len(packed) == 4:
        return ".".join(map(str, packed))
    return str(_plain_address(ipaddress.ip_address(packed)))


def _plain_address(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """A dual-stack socket reports IPv4 peers as ::ffff:a.b.c.d; on the wire they are IPv4."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def decode_open(payload: Bytes) -> tuple[int, Opening]:
    """The number and the opening in an OPEN payload. Bytes after the last known field are ignored. Raises
    RemoteProtocolError when it is malformed."""
    payload = bytes(payload)
    try:
        number, kind, label_size = _OPEN_START.unpack_from(payload)
        position = _OPEN_START.size + label_size
        label = payload[_OPEN_START.size : position].decode("ascii")
        address_size = payload[position]
        if address_size not in (4, 16):
            raise ValueError(f"an address of {address_size} bytes")
        address = payload[position + 1 : position + 1 + address_size]
        if len(address) != address_size:
            raise ValueError("it ends within the address")
        position += 1 + address_size
        (port,) = _PORT.unpack_from(payload, position)
        tls = _decode_tls(payload, position + _PORT.size)
        return number, Opening(label, _address_text(address), port, VisitKind(kind), *tls)
    except (ValueError, IndexError, struct.error) as error:
        raise RemoteProtocolError(f"malformed OPEN: {error}") from None


def _decode_tls(payload: bytes, position: int) -> tuple[int, str, str]:
    """Version, server name and ALPN protocol, if they are there. Raises ValueError, IndexError and struct.error."""
    if position == len(payload):
        return 0, "", ""
    version, size = _TLS_START.unpack_from(payload, position)
    start = position + _TLS_START.size
    end = start + size
    alpn_end = end + 1 + payload[end]
    if alpn_end > len(payload):
        raise ValueError("it ends within the ALPN protocol")
    return version, payload[start:end].decode("ascii"), payload[end + 1 : alpn_end].decode("ascii")


def encode_number(frame_type: FrameType, number: int) -> bytes:
    """An OPENED, END or RESET frame."""
    return encode_frame(frame_type, _NUMBER.pack(number))


def decode_number(payload: Bytes) -> int:
    """The number at the start of an OPENED, REFUSED, END or RESET payload. Raises RemoteProtocolError when it is too
    short."""
    if len(payload) < _NUMBER.size:
        raise RemoteProtocolError(f"a visit's frame of {len(payload)} bytes has no number")
    number: int = _NUMBER.unpack_from(payload)[0]
    return number


def encode_refused(number: int, reason: RefusalReason, message: str = "") -> bytes:
    """The REFUSED frame. A message that does not fit is truncated."""
    room = MAX_VISIT_FRAME - _REFUSED_START.size
    text = message.encode(errors="replace")[:room].decode(errors="ignore").encode()
    return encode_frame(FrameType.REFUSED, _REFUSED_START.pack(number, reason) + text)


def decode_refused(payload: Bytes) -> tuple[RefusalReason, str]:
    """The reason and the message in a REFUSED payload, whose number decode_number reads. Raises RemoteProtocolError
    when it is too short."""
    raw = bytes(payload)
    if len(raw) < _REFUSED_START.size:
        raise RemoteProtocolError("REFUSED without a reason")
    code = raw[_REFUSED_START.size - 1]
    reason = RefusalReason(code) if code in RefusalReason.__members__.values() else RefusalReason.OTHER
    return reason, raw[_REFUSED_START.size :].decode(errors="replace")
