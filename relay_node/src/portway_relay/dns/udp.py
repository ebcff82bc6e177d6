"""DNS over UDP: datagrams in batches, and a pause when the loop's share is used up.

Here: moving. What waits during a pause is the kernel's to keep or drop. An answer leaves from the address that was
asked, also where the socket has every address of the machine. Not here: what is answered.
"""

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

from portway_runtime.clocks import Monotonic
from portway_runtime.watched_sockets import WatchedSockets

from portway_relay.dns.loop_share import LoopShare

logger = logging.getLogger(__name__)

# A datagram and the address that it came from; what to answer, if anything.
Answer = Callable[[bytes, str], bytes | None]

# Datagrams in one turn of the loop: half a millisecond.
_BATCH: Final = 16
_LARGEST: Final = 4_096  # bytes of a query
_QUEUE: Final = 1 << 20  # bytes that the kernel keeps, as far as the system allows
_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)
_ANCILLARY: Final = 128  # bytes: the address that was asked, of either family
_EVERY: Final = ("0.0.0.0", "::")


class UdpServer:
    """Answers on sockets, which it owns."""

    def __init__(self, sockets: Sequence[socket.socket], answer: Answer, share: LoopShare, clock: Monotonic) -> None:
        """Begin to answer, on the running loop."""
        self._answer = answer
        self._share = share
        self._clock = clock
        self.queries = 0
        self.pauses = 0
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE)
        self._of_every = {sock for sock in sockets if _demand_destination(sock)}
        self._sockets = WatchedSockets(sockets, self._read)

    def close(self) -> None:
        """Answer no more. May be called again."""
        self._sockets.close()

    def _read(self, sock: socket.socket) -> None:
        if not self._sockets.is_watched(sock):
            return
        handle = self._handle_any if sock in self._of_every else self._handle
        began = self._clock()
        for _ in range(_BATCH):
            if not handle(sock):
                break
        self._share.spend(self._clock() - began)
        wait = self._share.wait
        if wait > 0:
            self.pauses += 1
            self._sockets.pause(sock, wait)

    def _handle(self, sock: socket.socket) -> bool:
        """Answer one datagram; False when there is none."""
        try:
            data, name = sock.recvfrom(_LARGEST)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True  # what an earlier answer ran into, such as a port that nobody listens on
        self.queries += 1
        answer = self._answer(data, address_of(name))
        if answer is not None:
            try:
                sock.sendto(answer, name)
            except OSError as error:
                logger.debug("a DNS answer was not sent: %s", error)
        return True

    def _handle_any(self, sock: socket.socket) -> bool:
        """As _handle, on a socket of every address: the answer comes from the one that was asked."""
        try:
            data, ancillary, _, name = sock.recvmsg(_LARGEST, _ANCILLARY)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
        self.queries += 1
        answer = self._answer(data, address_of(name))
        if answer is not None:
            try:
                sock.sendmsg([answer], [_returned(one) for one in ancillary if _is_destination(one)], 0, name)
            except OSError as error:
                logger.debug("a DNS answer was not sent: %s", error)
        return True


def address_of(name: Sequence[object]) -> str:
    """The address in a socket name; an IPv4-mapped one becomes an IPv4 one, and a scope is dropped."""
    host = str(name[0])
    if ":" in host:
        host = host.removeprefix("::ffff:").partition("%")[0]
    return host


def _demand_destination(sock: socket.socket) -> bool:
    """On a socket of every address, have the kernel say which was asked. Whether it is one."""
    if sock.getsockname()[0] not in _EVERY:
        return False
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    return True


def _is_destination(item: tuple[int, int, bytes]) -> bool:
    return item[:2] in ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO), (socket.IPPROTO_IP, _IP_PKTINFO))


def _returned(item: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    """The destination of a query as the source of its answer; the way back is the system's to choose, but for
    link-local addresses, which are of one interface."""
    level, kind, data = item
    if level == socket.IPPROTO_IPV6:
        return (level, kind, data) if data[:2] == b"\xfe\x80" else (level, kind, data[:16] + b"\0" * 4)
    # struct in_pktinfo: interface, the local address that was used, the address in the packet.
    return level, kind, b"\0" * 4 + data[8:12] + b"\0" * 4
