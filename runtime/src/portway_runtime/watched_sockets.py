"""Sockets that the loop watches, each of which can be left alone for a while.

Here: watching, pausing, and closing all. Not here: what is read, and when to pause (listener.py for connections; a DNS
server does so for datagrams).
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class Watchable(Protocol):
    """What has a descriptor."""

    def fileno(self) -> int: ...
    def close(self) -> None: ...


S = TypeVar("S", bound=Watchable)


class WatchedSockets(Generic[S]):
    """Calls `readable` with each socket that can be read from, on the running loop. It owns the sockets."""

    def __init__(
        self, sockets: Sequence[S], readable: Callable[[S], None], *, resumed: Callable[[], None] | None = None
    ) -> None:
        """Begin to watch. `resumed` is called after each pause."""
        self._loop = asyncio.get_running_loop()
        self._sockets = list(sockets)
        self._readable = readable
        self._resumed = resumed
        self._pauses: dict[S, asyncio.TimerHandle] = {}
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), readable, sock)

    def __iter__(self) -> Iterator[S]:
        return iter(tuple(self._sockets))

    def is_watched(self, sock: S) -> bool:
        """Not during a pause, nor once it is closed."""
        return sock not in self._pauses and sock in self._sockets

    @property
    def pausing(self) -> int:
        """Sockets that are left alone now."""
        return len(self._pauses)

    def pause(self, sock: S, seconds: float) -> None:
        """Leave a socket alone that is watched; what arrives meanwhile waits in the kernel."""
        self._loop.remove_reader(sock.fileno())
        self._pauses[sock] = self._loop.call_later(seconds, self._resume, sock)

    def close(self) -> None:
        """Close all sockets. May be called again."""
        for timer in self._pauses.values():
            timer.cancel()
        self._pauses.clear()
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _resume(self, sock: S) -> None:
        del self._pauses[sock]
        if self._resumed is not None:
            self._resumed()
        self._loop.add_reader(sock.fileno(), self._readable, sock)
