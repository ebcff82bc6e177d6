"""Listening sockets: opened on every address of a host, accepting in batches.

Running out of descriptors pauses accepting and does not end it: connections wait in the kernel's queue meanwhile. The
last ones are left for the node's own work, its registry, the other nodes, certificates: visitors must not take them.
"""

import asyncio
import errno
import ipaddress
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from portway_runtime.descriptors import EXHAUSTED

from portway_relay.config import Endpoint
from portway_relay.errors import ListenError

logger = logging.getLogger(__name__)

Accepted = Callable[[socket.socket, Endpoint], None]

# Accepted in one turn of the loop: a flood of new connections must not starve those that are there.
BATCH: Final = 16
_BACKLOG: Final = 4_096
# Somebody's connection will have ended by then; trying at once would only burn the processor.
_PAUSE: Final = 0.2
# Descriptors that accepting leaves; a quarter of the limit where that is less.
_LEFT: Final = 64
# Port 0 must become one port on every address of a name: another process may hold it on one of them.
_SAME_PORT_TRIES: Final = 16


class Acceptable(Protocol):
    """What is asked of a listening socket."""

    def accept(self) -> tuple[socket.socket, tuple[object, ...]]: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Listener:
    """Accepts on these sockets and hands each connection, non-blocking, to `accepted` with the peer's address."""

    def __init__(
        self, sockets: Sequence[Acceptable], accepted: Accepted, *, batch: int = BATCH, pause: float = _PAUSE
    ) -> None:
        """`batch` connections are accepted in one turn of the loop."""
        self._batch = batch
        self._loop = asyncio.get_running_loop()
        self._sockets = list(sockets)
        self._accepted = accepted
        self._pause = pause
        self._timers: dict[Acceptable, asyncio.TimerHandle] = {}
        self._most = _most_descriptors()
        self.pauses = 0
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def finish(self) -> None:
        """Take the connections that wait in the queue now, and stop listening."""
        for sock in list(self._sockets):
            self._accept(sock)
        self.close()

    def close(self) -> None:
        """Stop listening; connections that wait in the queue are reset by the kernel."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _accept(self, listening: Acceptable) -> None:
        for _ in range(self._batch):
            try:
                if _lowest_free(listening.fileno()) >= self._most:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                sock, name = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._rest(listening, error)
                    return
                # The connection was gone before it was accepted (ECONNABORTED and its like).
                continue
            sock.setblocking(False)
            self._accepted(sock, peer_of(name))
            if not self._sockets:
                return

    def _rest(self, listening: Acceptable, error: OSError) -> None:
        if not self._timers:
            logger.warning("accepting pauses: %s; raise the limit (ulimit -n, LimitNOFILE)", error.strerror)
        self.pauses += 1
        self._loop.remove_reader(listening.fileno())
        self._timers[listening] = self._loop.call_later(self._pause, self._resume, listening)

    def _resume(self, listening: Acceptable) -> None:
        del self._timers[listening]
        self._most = _most_descriptors()
        self._loop.add_reader(listening.fileno(), self._accept, listening)
        self._accept(listening)


def _most_descriptors() -> int:
    """The first of those that accepting leaves."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - min(_LEFT, limit // 4)


def _lowest_free(any_open: int) -> int:
    """The descriptor that the next connection would get. Raises OSError when there is none."""
    lowest = os.dup(any_open)
    os.close(lowest)
    return lowest


def peer_of(name: Sequence[object]) -> Endpoint:
    """A socket's name as an address: an IPv4 peer of a dual-stack socket is an IPv4 peer."""
    host, port = str(name[0]).partition("%")[0], int(str(name[1]))
    if host.startswith("::ffff:"):
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
        host = str(mapped) if mapped is not None else host
    return Endpoint(host, port)


def open_sockets(endpoint: Endpoint) -> list[socket.socket]:
    """Listening, non-blocking sockets on every address of the host, all on one port. Raises ListenError."""
    try:
        addresses = _addresses(endpoint.host)
    except OSError as error:
        raise _listen_error(endpoint, error) from error
    except UnicodeError as error:
        raise ListenError(f"cannot listen on {endpoint}: that is no host name") from error
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
