"""Listening sockets on every address of a host, dual-stack, all on one port; and how one stops to listen.

Linux resets the connections that wait in the queue of a listening socket that is closed, and those whose handshake is
in progress. So a socket is first made to refuse new ones, then emptied, then closed (docs/decisions/0073). Not here:
accepting (listener.py).
"""

import errno
import ipaddress
import re
import socket
import struct
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, Protocol

from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError

_BACKLOG: Final = 4_096
# Port 0 becomes one port on every address of a name; another process may hold it on one of them.
_SAME_PORT_TRIES: Final = 16
# Binds a socket to a network interface by its number (Linux; `socket` does not name it), for which a process needs no
# rights since Linux 5.7.
_SO_BINDTOIFINDEX: Final = 62
# The highest number of an interface. They are given from 1 on, and no packet arrives at this one.
_NO_INTERFACE: Final = 2**31 - 1
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)  # Linux
_QUEUED: Final = struct.Struct("24xI")  # of a listening socket's TCP_INFO: connections that wait to be accepted
# The kernel's tables of the TCP connections in this network namespace: a line each, in hexadecimal figures.
_TABLES: Final = (Path("/proc/thread-self/net/tcp"), Path("/proc/thread-self/net/tcp6"))
_SYN_RECEIVED: Final = "03"
_CHUNK: Final = 65_536  # bytes of a table that are read at a time
_LONGEST_LINE: Final = 256


class Refusing(Protocol):
    """What refuse_connections needs of a listening socket."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


class Queue(Protocol):
    """What `queued` needs of a listening socket."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def open_sockets(endpoint: Endpoint) -> list[socket.socket]:
    """Listening, non-blocking sockets on every address of the host, all on one port. Raises ListenError."""
    try:
        addresses = _addresses(endpoint.host)
    except OSError as error:
        raise _listen_error(endpoint, error) from error
    except UnicodeError as error:
        raise ListenError(f"cannot listen on {endpoint}: that is not a host name") from error
    for attempt in range(_SAME_PORT_TRIES):
        sockets: list[socket.socket] = []
        port = endpoint.port
        try:
            for family, host in addresses:
                sockets.append(_open(family, host, port))
                port = sockets[0].getsockname()[1]
        except OSError as error:
            for sock in sockets:
                sock.close()
            failure = _listen_error(endpoint, error)
            if endpoint.port == 0 and failure.port_taken and attempt < _SAME_PORT_TRIES - 1:
                continue
            raise failure from error
        return sockets
    raise AssertionError("the last try returns or raises")


def open_with_datagrams(endpoint: Endpoint) -> tuple[list[socket.socket], list[socket.socket]]:
    """As `open_sockets`, and beside each a UDP socket at the same address and port. Raises ListenError."""
    for attempt in range(_SAME_PORT_TRIES):
        listening, datagrams = open_sockets(endpoint), list[socket.socket]()
        try:
            for sock in listening:
                datagrams.append(_open_datagrams(sock))
        except OSError as error:
            for sock in (*listening, *datagrams):
                sock.close()
            failure = _listen_error(endpoint, error)
            if endpoint.port == 0 and failure.port_taken and attempt < _SAME_PORT_TRIES - 1:
                continue
            raise failure from error
        return listening, datagrams
    raise AssertionError("the last try returns or raises")


def refuse_connections(sock: Refusing) -> bool:
    """Make a listening socket refuse new connections, as if nobody listened; those whose handshake has begun still
    arrive, and are accepted as before. False where the system cannot: then nothing has changed."""
    try:
        # No SYN is for a socket that is bound to another interface than the one where it arrived. What follows a SYN
        # finds the connection that it began.
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
    except OSError:
        return False
    return True


def queued(sock: Queue) -> int | None:
    """Connections that wait in a listening socket's queue now, its backlog at most; None where the system does not
    say."""
    if _TCP_INFO is None:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _QUEUED.size)
        (count,) = _QUEUED.unpack(info)
    except (OSError, struct.error):
        return None
    return int(count)


def handshakes_in_progress(ports: Collection[int]) -> bool:
    """Whether the kernel waits for the last packet of a TCP handshake at one of these ports of this machine; true also
    where it does not say.

    Measured: 50 to 60 ms where the machine (the network namespace) has 18,000 connections, nearly all of it in the
    kernel, which writes a line for each; the interpreter's lock is held for 2 ms of it. Not for an event loop.
    """
    ends = "|".join(f"{port:04X}" for port in ports)
    wanted = re.compile(f":(?:{ends}) [0-9A-F]+:[0-9A-F]{{4}} {_SYN_RECEIVED} ".encode())
    try:
        for table in _TABLES:
            with table.open("rb", buffering=0) as lines:
                before = b""
                while chunk := lines.read(_CHUNK):
                    if wanted.search(before + chunk):
                        return True
                    before = chunk[-_LONGEST_LINE:]
    except OSError:
        return True
    return False


def endpoint_of(name: Sequence[object]) -> Endpoint:
    """The endpoint of a socket name. An IPv4-mapped IPv6 address becomes an IPv4 one, and a scope is dropped."""
    host, port = str(name[0]).partition("%")[0], int(str(name[1]))
    if host.startswith("::ffff:"):
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
        host = str(mapped) if mapped is not None else host
    return Endpoint(host, port)


def _listen_error(endpoint: Endpoint, error: OSError) -> ListenError:
    return ListenError(
        f"cannot listen on {endpoint}: {error.strerror or error}", port_taken=error.errno == errno.EADDRINUSE
    )


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    if host == "":
        return [(socket.AF_INET6, "::")] if socket.has_dualstack_ipv6() else [(socket.AF_INET, "0.0.0.0")]
    found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(name[0])) for family, _, _, _, name in found))


def _open(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        sock.setblocking(False)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _open_datagrams(beside: socket.socket) -> socket.socket:
    host, port = beside.getsockname()[:2]
    sock = socket.socket(beside.family, socket.SOCK_DGRAM)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        sock.setblocking(False)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
