"""What the kernel knows of a TCP connection that nobody reads (Linux; elsewhere it is taken for well)."""

import socket
import struct
from asyncio import BaseTransport
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
_ALIVE: Final = (1, 4, 5, 8)  # ESTABLISHED, FIN_WAIT1 and 2 (we ended), CLOSE_WAIT (the peer ended, in order)
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, for no time
# struct tcp_info of linux/tcp.h: eight bytes, then u32 fields; these are the indexes of those.
_FIELDS: Final = struct.Struct("=8B13I")
_UNACKED, _LAST_DATA_RECV, _LAST_ACK_RECV = 8 + 4, 8 + 11, 8 + 12
# tcpi_min_rtt (Linux 4.6): behind 24 fields of four bytes, 4 of eight and three more; in microseconds.
_MIN_RTT_AT: Final = 8 + 24 * 4 + 4 * 8 + 3 * 4
_MIN_RTT: Final = struct.Struct("=I")
_NO_MIN_RTT: Final = (0, 0xFFFFFFFF)

KEEPALIVE_IDLE: Final = 15  # with the two below a peer that vanished while idle is noticed after 35 s
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
        if hasattr(socket, name)  # not everywhere
    ),
]


@dataclass(frozen=True, slots=True)
class TcpState:
    """`silent` is how long, in seconds, the peer has neither sent nor acknowledged anything."""

    gone: bool  # the peer reset the connection, or the kernel gave it up
    unacknowledged: bool
    silent: float


def _socket_of(transport: BaseTransport) -> socket.socket | None:
    """None when it is closed already: a transport keeps its socket until its protocol has been told of the end, and
    uvloop's answers nothing but ValueError then."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    return sock if sock is not None and sock.fileno() >= 0 else None


def tcp_state(transport: BaseTransport) -> TcpState | None:
    """None where the platform does not tell."""
    sock = _socket_of(transport)
    if sock is None or _TCP_INFO is None:
        return None
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _FIELDS.size)
        if len(raw) < _FIELDS.size:
            return None
        fields = _FIELDS.unpack(raw)
        # One that both sides ended in order is as closed to the kernel as a reset one, and may still hold unread bytes.
        gone = fields[0] not in _ALIVE and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    except OSError:
        return None
    silent = min(fields[_LAST_DATA_RECV], fields[_LAST_ACK_RECV]) / 1000
    return TcpState(gone, fields[_UNACKED] > 0, silent)


def round_trip(transport: BaseTransport) -> float | None:
    """The shortest round trip so far, in seconds; None where the platform does not tell."""
    sock = _socket_of(transport)
    if sock is None or _TCP_INFO is None:
        return None
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _MIN_RTT_AT + _MIN_RTT.size)
    except OSError:
        return None
    if len(raw) < _MIN_RTT_AT + _MIN_RTT.size:
        return None
    (microseconds,) = _MIN_RTT.unpack_from(raw, _MIN_RTT_AT)
    return None if microseconds in _NO_MIN_RTT else microseconds / 1e6


def keep_alive(sock: socket.socket) -> None:
    """Probes for a peer that vanishes while idle. (Small writes are sent without delay by both loops.)"""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):  # the connection is gone already; its protocol is told by itself
        for level, option, value in _OPTIONS:
            sock.setsockopt(level, option, value)


def keep_transport_alive(transport: BaseTransport) -> None:
    """The same for a connection that was dialled."""
    sock = _borrow(transport)
    if sock is not None:
        keep_alive(sock)
        sock.detach()


def at_end(transport: BaseTransport) -> bool:
    """Whether the peer has ended its direction and all that it sent was read."""
    sock = _borrow(transport)
    if sock is None:
        return False
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except OSError:  # nothing yet, or the connection is gone
        return False
    finally:
        sock.detach()


def _borrow(transport: BaseTransport) -> socket.socket | None:
    """A real socket, to be detached: uvloop's face of one makes a new one for each call, and reads from none."""
    face = _socket_of(transport)
    return socket.socket(face.family, face.type, face.proto, face.fileno()) if face is not None else None


def reset_on_close(transport: BaseTransport) -> None:
    """Whoever is at the other end shall see that it was broken off, not ended."""
    sock = _socket_of(transport)
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except OSError:
            pass  # it is gone already
