"""Listening sockets: opened on every address of a host, accepting in batches.

Running out of descriptors pauses accepting and does not end it: connections wait in the kernel's queue meanwhile. The
last ones are left for the node's own work, its registry, the other nodes, certificates: visitors must not take them.
"""

import asyncio
import errno
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from portway_runtime.descriptors import EXHAUSTED
from portway_runtime.endpoints import Endpoint
from portway_runtime.listening import endpoint_of

logger = logging.getLogger(__name__)

Accepted = Callable[[socket.socket, Endpoint], None]

# Accepted in one turn of the loop: a flood of new connections must not starve those that are there.
BATCH: Final = 16
# Somebody's connection will have ended by then; trying at once would only burn the processor.
_PAUSE: Final = 0.2
# Descriptors that accepting leaves; a quarter of the limit where that is less.
_LEFT: Final = 64


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
            self._accepted(sock, endpoint_of(name))
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
