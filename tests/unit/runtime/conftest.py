"""What the tests of this folder stand on."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final

import pytest
import uvloop
from portway_runtime.endpoints import Endpoint
from portway_runtime.listening import open_sockets
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.fake_listening import PEER, Accept
from portway_testkit.processes.ports import free_port

# What has to do with sockets and threads that a loop has its own way with.
_ON_BOTH_LOOPS: Final = (
    "test_names.py",
    "test_dialling.py",
    "test_listener.py",
    "test_listener_ends.py",
    "test_watched_sockets.py",
)


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    return loops | {"uvloop": uvloop.new_event_loop} if item.path.name in _ON_BOTH_LOOPS else loops


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def connection() -> Iterator[Callable[[], Accept]]:
    """What accept gives for one connection."""
    made: list[socket.socket] = []

    def make() -> Accept:
        made.extend(socket.socketpair())
        return made[-1], PEER

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def taken() -> Iterator[ExitStack]:
    """What a test took, given back after it."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=["127.0.0.1", "::1", ""])
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[list[socket.socket], tuple[str, int]]]:
    """Listening sockets, of IPv4, of IPv6 and of both, and where one of them is reached."""
    sockets = open_sockets(Endpoint(request.param, free_port()))
    yield sockets, (request.param or "127.0.0.1", sockets[0].getsockname()[1])
    for sock in sockets:
        sock.close()
