"""Accepting connections in batches, pausing when the process runs out of descriptors, and stopping.

Connections wait in the kernel's queue during a pause. The last descriptors are reserved for the process's own work
(portway_runtime.descriptors): whoever connects must not use them up. Not here: opening the sockets, and how one refuses
(portway_runtime.listening).
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from portway_runtime.descriptors import EXHAUSTED, first_reserved, lowest_free
from portway_runtime.endpoints import Endpoint
from portway_runtime.listening import endpoint_of, handshakes_in_progress, queued, refuse_connections
from portway_runtime.time_limit import time_limit
from portway_runtime.watched_sockets import Watchable, WatchedSockets

logger = logging.getLogger(__name__)

Accepted = Callable[[socket.socket, Endpoint], None]

# Connections accepted in one turn of the loop: a flood of new ones must not starve those in progress.
BATCH: Final = 16
# Seconds until accepting is tried again: some connection has probably ended by then, and trying at once is a busy loop.
_PAUSE: Final = 0.2
# Seconds until `finish` first looks for handshakes in progress, and between two looks at most, unless a look takes
# longer.
_FIRST_LOOK: Final = 0.005
_LONGEST_LOOK: Final = 0.1


class Acceptable(Watchable, Protocol):
    """What a Listener needs of a listening socket."""

    def accept(self) -> tuple[socket.socket, tuple[object, ...]]: ...
    def getsockname(self) -> tuple[object, ...]: ...
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


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
        self._accepted = accepted
        self._pause = pause
        self._first_reserved = first_reserved()
        self.pauses = 0
        self._sockets = WatchedSockets(sockets, self._accept, resumed=self._resumed)

    @property
    def ports(self) -> set[int]:
        """Those that it listens on."""
        return {endpoint_of(sock.getsockname()).port for sock in self._sockets}

    @property
    def rests(self) -> bool:
        """Whether accepting pauses for want of descriptors."""
        return self._sockets.pausing > 0

    def refuse(self) -> bool:
        """Refuse new connections; those whose handshake has begun are still accepted. False where the system cannot."""
        refusing = [refuse_connections(sock) for sock in self._sockets]
        return all(refusing)

    def retire(self) -> None:
        """Refuse new connections, accept those that wait in the kernel's queue now, and stop listening. Those whose
        handshake is in progress are reset (`finish` waits for them), and so are those that come meanwhile where the
        system cannot refuse: else they would keep this from ending. Where it does not say how many wait, a batch of
        each socket is accepted."""
        self.refuse()
        for sock in self._sockets:
            waiting = queued(sock)
            self._accept(sock, self._batch if waiting is None else waiting)
        self.close()

    def close(self) -> None:
        """Stop listening. The kernel resets connections that wait in its queue. May be called again."""
        self._sockets.close()

    def _accept(self, listening: Acceptable, most: int | None = None) -> None:
        """Accept `most` connections, a batch by default, as far as there are any; none during a pause."""
        for _ in range(self._batch if most is None else most):
            if not self._sockets.is_watched(listening):
                return
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

    def _pause_accepting(self, listening: Acceptable, error: OSError) -> None:
        if not self.rests:
            logger.warning("accepting pauses: %s; raise the limit (ulimit -n, LimitNOFILE)", error.strerror)
        self.pauses += 1
        self._sockets.pause(listening, self._pause)

    def _resumed(self) -> None:
        self._first_reserved = first_reserved()  # the limit may have been raised


async def finish(listeners: Collection[Listener], *, within: float) -> None:
    """Stop listening, so that none of those who connect is reset: new ones are refused at once, so that they try the
    next address of the name; all others are accepted, also when their handshake is still in progress. Called once for
    all ports that end together, because it is the same work for one and for many.

    within: seconds at most for handshakes, and for descriptors to be free. What has not come by then is reset, as is
    what is in progress where the system cannot refuse (Linux before 5.7). Cancelled, it leaves listeners that refuse.
    """
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + within, _FIRST_LOOK
    refusing = [listener.refuse() for listener in listeners]
    if all(refusing):
        ports = {port for listener in listeners for port in listener.ports}
        quiet = False
        while ports and (left := deadline - loop.time()) > 0:
            await asyncio.sleep(min(pause, left))
            was_quiet, began = quiet, loop.time()
            quiet = not any(listener.rests for listener in listeners) and not await _look(ports, deadline)
            # Twice: a connection is in the queue a moment after its handshake is over.
            if quiet and was_quiet:
                break
            pause = max(loop.time() - began, _FIRST_LOOK if quiet else min(2 * pause, _LONGEST_LOOK))
    for listener in listeners:
        listener.retire()


async def _look(ports: Collection[int], until: float) -> bool:
    """Whether there are handshakes in progress, by a thread, since the loop has visits to move; true also when that has
    not ended by `until`, or no thread can be started."""
    try:
        async with time_limit(max(0.0, until - asyncio.get_running_loop().time())):
            return await asyncio.to_thread(handshakes_in_progress, ports)
    except (TimeoutError, RuntimeError):
        return True
