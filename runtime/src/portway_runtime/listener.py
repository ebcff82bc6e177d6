"""Accepting connections in batches, and pausing when the process runs out of descriptors.

Connections wait in the kernel's queue during a pause. The last descriptors are reserved for the process's own work
(portway_runtime.descriptors): whoever connects must not use them up. Not here: opening the sockets
(portway_runtime.listening).
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from portway_runtime.descriptors import EXHAUSTED, first_reserved, lowest_free
from portway_runtime.endpoints import Endpoint
from portway_runtime.listening import endpoint_of

logger = logging.getLogger(__name__)

Accepted = Callable[[socket.socket, Endpoint], None]

# Connections accepted in one turn of the loop: a flood of new ones must not starve those in progress.
BATCH: Final = 16
# Seconds until accepting is tried again: some connection has probably ended by then, and trying at once is a busy loop.
_PAUSE: Final = 0.2


class Acceptable(Protocol):
    """What a Listener needs of a listening socket."""

    def accept(self) -> tuple[socket.socket, tuple[object, ...]]: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Listener:
    """Accepts on listening sockets, which it owns. Each connection, non-blocking, goes to `accepted` with the peer's
    address."""

    def __init__(
        self, sockets: Sequence[Acceptable], accepted: Accepted, *, batch: int = BATCH, pause: float = _PAUSE
    ) -> None:
        """Begin to accept, on the running loop.

        batch: connections accepted in one turn of the loop, from each socket.
        pause: seconds until accepting is tried again after descriptors ran out.
        """
        self._batch = batch
        self._loop = asyncio.get_running_loop()
        self._sockets = list(sockets)
        self._accepted = accepted
        self._pause = pause
        self._timers: dict[Acceptable, asyncio.TimerHandle] = {}
        self._first_reserved = first_reserved()
        self.pauses = 0
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def finish(self) -> None:
        """Accept the connections that wait in the kernel's queue, up to a batch of each socket, and stop listening."""
        for sock in list(self._sockets):
            self._accept(sock)
        self.close()

    def close(self) -> None:
        """Stop listening. The kernel resets connections that wait in its queue. May be called again."""
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
                if lowest_free(listening.fileno()) >= self._first_reserved:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                sock, name = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause_accepting(listening, error)
                    return
                # The connection was gone before it was accepted (ECONNABORTED and its like).
                continue
            sock.setblocking(False)
            self._accepted(sock, endpoint_of(name))
            if not self._sockets:
                return

    def _pause_accepting(self, listening: Acceptable, error: OSError) -> None:
        if not self._timers:
            logger.warning("accepting pauses: %s; raise the limit (ulimit -n, LimitNOFILE)", error.strerror)
        self.pauses += 1
        self._loop.remove_reader(listening.fileno())
        self._timers[listening] = self._loop.call_later(self._pause, self._resume, listening)

    def _resume(self, listening: Acceptable) -> None:
        del self._timers[listening]
        self._first_reserved = first_reserved()
        self._loop.add_reader(listening.fileno(), self._accept, listening)
        self._accept(listening)
