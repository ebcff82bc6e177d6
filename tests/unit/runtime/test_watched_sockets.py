"""Sockets that are watched and left alone, on real ones."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from portway_runtime.watched_sockets import WatchedSockets
from portway_testkit.links.carrier_link import until

NEVER = 3600.0
AT_ONCE = 0.001


class Watching:
    """Two watched sockets, and the bytes that were read from each."""

    def __init__(self) -> None:
        pairs = [socket.socketpair(), socket.socketpair()]
        self.ours, self.theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        self.read: list[tuple[int, bytes]] = []
        self.resumed = 0
        self.sockets: WatchedSockets[socket.socket] | None = None

    def watch(self) -> WatchedSockets[socket.socket]:
        self.sockets = WatchedSockets(self.ours, self._readable, resumed=self._count)
        return self.sockets

    def close(self) -> None:
        if self.sockets is not None:
            self.sockets.close()
        for sock in self.ours + self.theirs:
            sock.close()

    def _readable(self, sock: socket.socket) -> None:
        self.read.append((self.ours.index(sock), sock.recv(100)))

    def _count(self) -> None:
        self.resumed += 1


@pytest.fixture
def watching() -> Iterator[Watching]:
    made = Watching()
    yield made
    made.close()


async def test_each_is_read_when_something_has_come(watching: Watching) -> None:
    """As it comes, with the socket that it came to."""
    watching.watch()
    watching.theirs[1].send(b"one")
    await until(lambda: watching.read == [(1, b"one")])
    watching.theirs[0].send(b"two")
    await until(lambda: watching.read == [(1, b"one"), (0, b"two")])


async def test_one_is_left_alone_while_the_other_is_read(watching: Watching) -> None:
    """What came meanwhile is read after the pause."""
    sockets = watching.watch()
    sockets.pause(watching.ours[0], NEVER)
    assert sockets.pausing == 1
    assert not sockets.is_watched(watching.ours[0])
    assert sockets.is_watched(watching.ours[1])
    watching.theirs[0].send(b"one")
    watching.theirs[1].send(b"two")
    await until(lambda: watching.read == [(1, b"two")])


async def test_what_came_in_a_pause_is_read_after_it(watching: Watching) -> None:
    """Whoever paused is told first."""
    sockets = watching.watch()
    watching.theirs[0].send(b"one")
    sockets.pause(watching.ours[0], AT_ONCE)
    await until(lambda: watching.read == [(0, b"one")])
    assert watching.resumed == 1
    assert sockets.is_watched(watching.ours[0])
    assert sockets.pausing == 0


async def test_closing_ends_pauses_as_well(watching: Watching) -> None:
    """No socket is read afterwards, also one whose pause would be over; closing again does nothing."""
    sockets = watching.watch()
    watching.theirs[0].send(b"one")
    watching.theirs[1].send(b"two")
    sockets.pause(watching.ours[0], AT_ONCE)
    sockets.close()
    sockets.close()
    assert list(sockets) == []
    assert [sock.fileno() for sock in watching.ours] == [-1, -1]
    await asyncio.sleep(2 * AT_ONCE)
    assert (watching.read, watching.resumed) == ([], 0)
