"""portway_carrier.python.lanes.framed_connection: bytes to frames and frames to bytes, without a socket."""

import asyncio
from typing import cast

import pytest
from portway_carrier.errors import ConnectionLost
from portway_carrier.python.core.core import Core
from portway_carrier.python.lanes.framed_connection import FramedConnection
from portway_carrier.values import Limits
from portway_proto.wire.errors import RemoteProtocolError
from portway_proto.wire.frames import Bytes, FrameReader, FrameType, data_header, encode_frame
from portway_runtime.endpoints import Endpoint


class Transport:
    """Remembers what was written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: Bytes) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return False


class Framed(FramedConnection):
    """Remembers what it received beside DATA for the sink."""

    def __init__(self, core: Core, transport: Transport, *, tls: bool) -> None:
        super().__init__(core, cast(asyncio.Transport, transport), Endpoint("192.0.2.1", 7), tls=tls)
        self.frames: list[tuple[int, bytes]] = []
        self.without_sink: list[bytes] = []
        self.violations: list[RemoteProtocolError] = []
        self.ends: list[ConnectionLost] = []

    def data_without_sink(self, payload: Bytes) -> None:
        self.without_sink.append(bytes(payload))

    def frame_received(self, frame_type: int, payload: Bytes) -> bool:
        self.frames.append((frame_type, bytes(payload)))
        return True

    def protocol_violated(self, error: RemoteProtocolError) -> None:
        self.violations.append(error)

    def ended(self, error: ConnectionLost) -> None:
        self.ends.append(error)


@pytest.fixture
async def core() -> Core:
    return Core(Limits())


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def framed(core: Core, transport: Transport) -> Framed:
    return Framed(core, transport, tls=True)


async def test_what_was_read_leaves_as_one_frame(core: Core, framed: Framed, transport: Transport) -> None:
    """Header and bytes in one write, and counted."""
    core.read_buffer.room[:5] = b"bytes"
    framed.carry_read(5)
    assert transport.writes == [data_header(5) + b"bytes"]
    assert framed.sent_bytes == 5


@pytest.mark.parametrize(("size", "tls", "writes"), [(60_000, True, 1), (65_537, True, 3), (65_537, False, 1)])
async def test_a_long_piece_is_not_copied_over_tls(
    core: Core, transport: Transport, size: int, tls: bool, writes: int
) -> None:
    """Over 64 KiB its header has a write of its own, and the piece is written in parts."""
    framed = Framed(core, transport, tls=tls)
    framed.carry(bytes(size))
    assert len(transport.writes) == writes
    assert b"".join(transport.writes) == data_header(size) + bytes(size)


async def test_a_deferred_frame_leaves_with_the_next_write(framed: Framed, transport: Transport) -> None:
    """Once; when its time is up it is not sent again."""
    opened = encode_frame(FrameType.OPENED, b"\0\0\0\1")
    framed.deferred = opened
    framed.carry(b"answer")
    framed.send_deferred(opened)
    (written,) = transport.writes
    assert [frame_type for frame_type, _ in FrameReader().feed(written)] == [FrameType.OPENED, FrameType.DATA]


async def test_a_deferred_frame_leaves_alone_when_its_time_is_up(framed: Framed, transport: Transport) -> None:
    """And no frame deferred later leaves in its place."""
    first, second = encode_frame(FrameType.OPENED, b"\0\0\0\1"), encode_frame(FrameType.OPENED, b"\0\0\0\2")
    framed.deferred = first
    framed.send_deferred(first)
    framed.deferred = second
    framed.send_deferred(first)
    assert transport.writes == [first]


async def test_data_goes_to_the_sink_and_the_rest_to_the_subclass(framed: Framed) -> None:
    """Whole frames and pieces alike, in order."""
    sunk: list[bytes] = []
    framed.sink = lambda data: sunk.append(bytes(data))
    framed.data_received(memoryview(data_header(4) + b"data"))
    framed.data_received(memoryview(data_header(4) + b"da"))
    framed.data_received(memoryview(b"ta" + encode_frame(FrameType.PING, b"there?")))
    framed.sink = None
    framed.data_received(memoryview(data_header(1) + b"x"))
    assert sunk == [b"data", b"da", b"ta"]
    assert framed.received_bytes == 8
    assert framed.frames == [(FrameType.PING, b"there?")]
    assert framed.without_sink == [b"x"]


async def test_a_violation_is_reported(framed: Framed) -> None:
    """It is not raised into the event loop."""
    framed.data_received(memoryview(b"\x7f\0\0\0"))
    assert len(framed.violations) == 1


async def test_a_closed_connection_writes_no_frames(framed: Framed, transport: Transport) -> None:
    """And passes none on."""
    framed.closed = True
    framed.write_frames(encode_frame(FrameType.PING, b""))
    framed.data_received(memoryview(encode_frame(FrameType.PING, b"") * 2))
    assert not transport.writes
    assert not framed.frames


async def test_the_end_of_the_transport_is_its_end(core: Core, framed: Framed) -> None:
    """Which leaves the core's connections."""
    assert framed in core.connections
    framed.connection_lost(None)
    assert framed not in core.connections
    assert [str(error) for error in framed.ends] == ["the peer closed it"]
