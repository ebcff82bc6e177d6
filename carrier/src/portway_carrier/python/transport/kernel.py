"""The kernel's view of a TCP connection, and the socket options that a carrier sets.

TCP_INFO is read on Linux; on other platforms the functions that need it answer None. A function given a transport
whose socket is closed already answers as if nothing were known, and never raises.
"""

import _socket
import fcntl
import socket
import struct
import sys
import termios
from asyncio import BaseTransport, Transport, WriteTransport
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
_TCP_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)
# ESTABLISHED, FIN_WAIT1 and FIN_WAIT2 (this side has sent FIN), CLOSE_WAIT (the peer has sent FIN).
_ALIVE: Final = (1, 4, 5, 8)
# Bytes that are still read from a connection that was lost. A peer that sent more than this is cut off in the middle.
_MOST_REST: Final = 1024 * 1024
_INT: Final = struct.Struct("=i")
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, 0 s
# struct tcp_info of linux/tcp.h: eight u8 fields, then u32 fields. Below, the indexes of three of them.
_FIELDS: Final = struct.Struct("=8B13I")
_UNACKED, _LAST_DATA_RECV, _LAST_ACK_RECV = 8 + 4, 8 + 11, 8 + 12
# tcpi_bytes_acked (Linux 4.1): after eight u8, 24 u32 and 2 u64 fields.
_BYTES_ACKED_AT: Final = 8 + 24 * 4 + 2 * 8
_BYTES_ACKED: Final = struct.Struct("=Q")
# tcpi_min_rtt (Linux 4.6), in microseconds: after eight u8, 24 u32, 4 u64 and 3 more u32 fields.
_MIN_RTT_AT: Final = 8 + 24 * 4 + 4 * 8 + 3 * 4
_MIN_RTT: Final = struct.Struct("=I")
_NO_MIN_RTT: Final = (0, 0xFFFFFFFF)

KEEPALIVE_IDLE: Final = 15  # seconds; with the two below, a vanished idle peer is noticed after 15 + 4 * 5 = 35 s
KEEPALIVE_INTERVAL: Final = 5
KEEPALIVE_COUNT: Final = 4
_OPTIONS: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
            ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        )
        if hasattr(socket, name)  # not on every platform
    ),
]


@dataclass(frozen=True, slots=True)
class TcpState:
    """The state of one connection at the time of the call."""

    gone: bool  # the peer has reset the connection, or the kernel has given it up
    unacknowledged: bool  # some of what was sent has not been acknowledged
    silent: float  # seconds since the peer last sent or acknowledged anything
    quiet: float  # seconds since it last sent bytes


def tcp_state(transport: BaseTransport) -> TcpState | None:
    """None when the platform has no TCP_INFO."""
    if _TCP_INFO is None:
        return None
    with _borrowed(transport) as sock:
        if sock is None:
            return None
        try:
            raw = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _FIELDS.size)
            if len(raw) < _FIELDS.size:
                return None
            fields = _FIELDS.unpack(raw)
            # A connection that both sides ended in order is in the same state CLOSE as a reset one, and may still hold
            # unread bytes: only SO_ERROR tells them apart.
            gone = fields[0] not in _ALIVE and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        except OSError:
            return None
    silent = min(fields[_LAST_DATA_RECV], fields[_LAST_ACK_RECV]) / 1000
    return TcpState(gone, fields[_UNACKED] > 0, silent, fields[_LAST_DATA_RECV] / 1000)


class Mark:
    """A place in what is sent on a connection: behind everything that was written when this was made."""

    __slots__ = ("_place", "transport")

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        # An acknowledgement that comes between the two questions would be counted twice, or not at all. It is seen by
        # what is left, which becomes less by acknowledgements alone here; where nothing is left none can come.
        left, acknowledged = undelivered(transport), bytes_acknowledged(transport)
        while left and (now := undelivered(transport)) != left:
            left, acknowledged = now, bytes_acknowledged(transport)
        given = left + transport.get_write_buffer_size()
        self._place = None if acknowledged is None else acknowledged + given

    @property
    def is_last(self) -> bool:
        """Whether the peer's kernel has acknowledged nothing that was written after it, for certain."""
        if self._place is None:
            return False
        acknowledged = bytes_acknowledged(self.transport)
        return acknowledged is not None and acknowledged <= self._place


def bytes_acknowledged(transport: BaseTransport) -> int | None:
    """Bytes that the peer's kernel has acknowledged since the connection began; None when that is not known."""
    return _tcp_info(transport, _BYTES_ACKED, _BYTES_ACKED_AT)


def round_trip(transport: BaseTransport) -> float | None:
    """The shortest round trip since the connection began, in seconds; None when the platform does not report it."""
    microseconds = _tcp_info(transport, _MIN_RTT, _MIN_RTT_AT)
    return None if microseconds is None or microseconds in _NO_MIN_RTT else microseconds / 1e6


def _tcp_info(transport: BaseTransport, field: struct.Struct, at: int) -> int | None:
    """One field of the kernel's tcp_info; None when the platform or an old kernel does not have it."""
    if _TCP_INFO is None:
        return None
    with _borrowed(transport) as sock:
        if sock is None:
            return None
        try:
            raw = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, at + field.size)
        except OSError:
            return None
    if len(raw) < at + field.size:
        return None
    value: int = field.unpack_from(raw, at)[0]
    return value


def keep_alive(sock: socket.socket) -> None:
    """Turn TCP keepalive on, to notice a peer that vanishes while the connection is idle. (TCP_NODELAY is set by
    asyncio and by uvloop.)"""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):  # the connection is gone already; its protocol gets connection_lost
        for level, option, value in _OPTIONS:
            sock.setsockopt(level, option, value)


def at_end(transport: BaseTransport) -> bool:
    """Whether the peer has ended its direction and everything it sent has been read. Never waits."""
    with _borrowed(transport) as sock:
        if sock is None:
            return False
        try:
            return not sock.recv(1, socket.MSG_PEEK)
        except OSError:  # BlockingIOError: nothing has arrived; or the connection is gone
            return False


def receive_rest(transport: BaseTransport, room: memoryview) -> Iterator[int]:
    """Read what the peer of a lost connection sent before: the sizes of the pieces, each of which is in `room` until
    the next one. Whether the peer had ended its direction is not known: the kernel says that of every connection that
    was reset, too.

    A write that fails ends a transport before it has read what has arrived; the kernel keeps that until the close."""
    left = _MOST_REST
    with _borrowed(transport) as sock:
        try:
            while sock is not None and left > 0 and (size := sock.recv_into(room)):
                yield size
                left -= size
        except OSError:  # BlockingIOError: that was all; or the reset itself
            pass


def undelivered(transport: BaseTransport) -> int:
    """Bytes that were given to the kernel and that the peer's has not acknowledged. 0 where it does not say."""
    if sys.platform != "linux":
        return 0
    with _borrowed(transport) as sock:
        if sock is None:
            return 0
        try:
            (size,) = _INT.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))
        except OSError:
            return 0
    return int(size)


def acknowledge(transport: BaseTransport) -> None:
    """Acknowledge now what was received: a peer that waits for that before it sends its next bytes (Nagle's algorithm)
    would wait for 40 ms otherwise."""
    with _borrowed(transport) as sock:
        if sock is not None and _TCP_QUICKACK is not None:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)


def end_writing(transport: WriteTransport) -> None:
    """End this side's direction. A connection that the peer has reset, of which the loop has not told yet, is
    dropped."""
    try:
        transport.write_eof()
    except OSError:  # asyncio's own loop ends it within the call
        transport.abort()


def receive_little(transport: BaseTransport, size: int) -> None:
    """Let the kernel hold no more bytes than this, some, that were received and not read, so that the peer has to wait
    with its next. Linux doubles it, for what it needs itself."""
    with _borrowed(transport) as sock, suppress(OSError):
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def reset_on_close(transport: BaseTransport) -> None:
    """Make the close send RST instead of FIN, so that the peer sees an abort and not an end."""
    with _borrowed(transport) as sock, suppress(OSError):  # the connection is gone already
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


class _borrowed:  # noqa: N801 - a context manager on the path of each visit: a generator's costs 1 us more
    """A socket object on a transport's descriptor, for as long as the block runs; None when it is closed already: a
    transport keeps its socket until connection_lost was called.

    uvloop's own object cannot recv(), and makes a new socket object for each call. `_socket` and not socket.socket,
    which a program may have replaced by one that waits in its own threads. A new object has the timeout that is the
    process's default (socket.setdefaulttimeout), and would wait for as long.
    """

    __slots__ = ("_sock",)

    def __init__(self, transport: BaseTransport) -> None:
        own = transport.get_extra_info("socket")
        self._sock: _socket.socket | None = None
        if own is not None and own.fileno() >= 0:
            self._sock = _socket.socket(own.family, own.type, own.proto, own.fileno())

    def __enter__(self) -> "_socket.socket | None":
        if self._sock is not None:
            self._sock.setblocking(False)
        return self._sock

    def __exit__(self, *_: object) -> None:
        if self._sock is not None:
            self._sock.detach()
