"""Waiting for first bytes, on real connections; with ClientHellos it is tested where the node peeks."""

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from portway_runtime.endpoints import Endpoint
from portway_runtime.first_bytes import FirstBytes
from portway_runtime.parse_results import NeedMore
from portway_testkit.links.carrier_link import until

PEER = Endpoint("192.0.2.1", 4711)
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Our end, non-blocking, and theirs."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as theirs:
        ours, _ = server.accept()
        ours.setblocking(False)
        with ours:
            yield ours, theirs


def line(data: bytes) -> str | NeedMore:
    """A line of text, with at least three bytes."""
    if len(data) < 3:
        return NeedMore(3)
    return data.decode() if data.endswith(b"\n") else NeedMore(len(data) + 1)


class Waiting:
    """First bytes that are awaited, and what was seen."""

    def __init__(self, *, time_limit: float = 3600.0, capacity: int = 10) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.first_bytes = FirstBytes[str](
            line, self._seen, time_limit=time_limit, capacity=capacity, capacity_per_address=10, clock=time.monotonic
        )

    def _seen(self, sock: socket.socket, peer: Endpoint, found: str, data: bytes) -> None:
        assert peer == PEER
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        assert sock.recv(100) == data, "they were consumed"
        self.seen.append((found, data))


async def test_they_are_seen_when_they_suffice(pair: Pair) -> None:
    """However they arrive; whoever reads them says how many it needs."""
    ours, theirs = pair
    waiting = Waiting()
    waiting.first_bytes.add(ours, PEER)
    for byte in b"hello\n":
        assert (waiting.seen, len(waiting.first_bytes)) == ([], 1)
        theirs.send(bytes([byte]))
        await asyncio.sleep(0.01)
    await until(lambda: waiting.seen == [("hello\n", b"hello\n")])
    await waiting.first_bytes.over()


class ShortOfMemory(socket.socket):
    """One whose kernel disregards SO_RCVLOWAT, as Linux does where it is short of memory for sockets."""

    looks = 0

    def setsockopt(self, level: int, option: int, value: Any, *_: Any) -> None:
        if option != socket.SO_RCVLOWAT:
            super().setsockopt(level, option, value)

    def recv(self, *arguments: Any) -> bytes:
        self.looks += 1
        return super().recv(*arguments)


@pytest.fixture
def hasty(pair: Pair) -> Iterator[ShortOfMemory]:
    """Has received a part of a line."""
    with ShortOfMemory(fileno=pair[0].detach()) as ours:
        pair[1].send(b"hel")
        yield ours


async def test_a_kernel_that_is_short_of_memory_ends_nobodys_waiting(pair: Pair, hasty: ShortOfMemory) -> None:
    """It says too early that they are there. They are looked at again, seldom, until they suffice or the peer ends."""
    waiting = Waiting()
    waiting.first_bytes.add(hasty, PEER)
    for _ in range(1000):  # it is readable in each of these turns
        await asyncio.sleep(0)
    assert hasty.looks < 20
    pair[1].send(b"lo\n")
    await waiting.first_bytes.over()
    assert waiting.seen == [("hello\n", b"hello\n")]


async def test_whoever_ends_is_waited_for_no_more(pair: Pair, hasty: ShortOfMemory) -> None:
    """Though some bytes have come; also while its kernel is short of memory."""
    waiting = Waiting()
    waiting.first_bytes.add(hasty, PEER)
    await until(lambda: hasty.looks > 1)
    pair[1].shutdown(socket.SHUT_WR)
    await waiting.first_bytes.over()
    assert hasty.fileno() == -1
    assert waiting.seen == []


async def test_whoever_is_too_slow_is_closed(pair: Pair) -> None:
    """After the time limit, whatever it has sent."""
    ours, theirs = pair
    theirs.send(b"hel")
    waiting = Waiting(time_limit=0.02)
    waiting.first_bytes.add(ours, PEER)
    await waiting.first_bytes.over()
    assert ours.fileno() == -1
    assert waiting.seen == []


async def test_all_are_closed_at_the_end(pair: Pair) -> None:
    """And are not waited for any more."""
    ours, _ = pair
    waiting = Waiting()
    waiting.first_bytes.add(ours, PEER)
    waiting.first_bytes.close()
    assert ours.fileno() == -1
    assert len(waiting.first_bytes) == 0
