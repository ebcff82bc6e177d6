"""portway_carrier.python.lanes.deferred_opened: OPENED leaves with the answer, and the answer with its end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from portway_carrier.python import PythonCarrier
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.values import Limits, LocalService, PoolLimits
from portway_proto.wire.frames import FrameReader, FrameType, data_header, encode_open
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import MAX_KEPT
from portway_testkit.links.carrier_link import LABEL, OPENING, Recorder, listener, until


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The frame types of each write to a lane."""
    made: list[list[int]] = []
    write = PyLane.write

    def recorded(lane: PyLane, data: bytes) -> None:
        made.append([frame_type for frame_type, _ in FrameReader().feed(memoryview(bytes(data)))])
        write(lane, data)

    monkeypatch.setattr(PyLane, "write", recorded)
    return made


@pytest.fixture
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENED waits for the answer however long that takes."""
    monkeypatch.setattr("portway_carrier.python.lanes.deferred_opened.SHORTEST_WAIT", 3600.0)


@asynccontextmanager
async def visit(first: bytes) -> AsyncIterator[socket.socket]:
    """A visit whose visitor has sent `first`, as the connection of the local server that has received it."""
    loop, carrier = asyncio.get_running_loop(), PythonCarrier(Limits())
    with listener() as listening:
        ours, opener = socket.socketpair()
        opener.setblocking(False)
        stream = carrier.accept(ours, None)
        await stream.ready()
        pool = carrier.pool(None, PoolLimits())
        carrier.serve(pool, {LABEL: LocalService(listening.getsockname()[1])})
        pool.park(carrier.lane(stream, Side.ACCEPTOR, Recorder()))
        await loop.sock_sendall(opener, encode_open(1, OPENING) + data_header(len(first)) + first)
        connection, _ = await loop.sock_accept(listening)
        with opener, connection:
            seen = 0
            while seen < len(first):
                seen += len(await loop.sock_recv(connection, len(first)))
            yield connection
        await carrier.close()


@pytest.mark.usefixtures("no_hurry")
async def test_a_short_answer_leaves_in_one_write(writes: list[list[int]]) -> None:
    """OPENED waits for the answer, and an end that has been received already leaves with both."""
    async with visit(b"ask") as connection:
        connection.send(b"answer")
        connection.close()
        await until(lambda: bool(writes))
        assert writes == [[FrameType.OPENED, FrameType.DATA, FrameType.END]]


async def test_opened_does_not_wait_for_a_server_that_says_nothing(writes: list[list[int]]) -> None:
    """OPENED leaves by itself after a moment, and a later answer in a write of its own."""
    async with visit(b"ask") as connection:
        await until(lambda: writes == [[FrameType.OPENED]])
        connection.send(b"answer")
        await until(lambda: writes[1:] == [[FrameType.DATA]])
        connection.close()
        await until(lambda: writes[2:] == [[FrameType.END]])


@pytest.mark.usefixtures("no_hurry")
async def test_an_end_that_comes_later_leaves_alone(writes: list[list[int]]) -> None:
    """An answer does not wait for its end."""
    async with visit(b"ask") as connection:
        connection.send(b"answer")
        await until(lambda: writes == [[FrameType.OPENED, FrameType.DATA]])
        connection.close()
        await until(lambda: writes[1:] == [[FrameType.END]])


@pytest.mark.usefixtures("no_hurry")
async def test_opened_does_not_keep_a_long_first_flight_waiting(writes: list[list[int]]) -> None:
    """An opener that is close to what it may send before OPENED gets it at once."""
    async with visit(bytes(MAX_KEPT // 2)):
        assert writes == [[FrameType.OPENED]]
