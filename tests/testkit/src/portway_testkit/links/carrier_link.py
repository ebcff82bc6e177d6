"""A node's end and a client's end of a link, each on a carrier of its own, over real sockets."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from portway_carrier.contract import Carrier, Lane, Pool, Stream, Visit, VisitEnd
from portway_carrier.errors import CarrierError
from portway_carrier.values import ClientTls, DialTarget, LocalService, PoolLimits, ServerTls, SpareSizes
from portway_proto.v1 import lane_pb2
from portway_proto.wire.frames import FrameType, Opening, RefusalReason, encode_open
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import HEADER_SIZE
from portway_runtime.endpoints import Endpoint

LABEL = "abcdefghijklmnop"
OPENING = Opening(LABEL, "192.0.2.7", 4711)
_STILL_AFTER = 300


@dataclass
class Recorder:
    """A LaneEvents that records events and wakes the task that waits for them."""

    frames: list[tuple[int, bytes]] = field(default_factory=list)
    openings: list[tuple[Lane, Opening]] = field(default_factory=list)
    closed: list[CarrierError] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    on_opening: Callable[[Lane, Opening], object] | None = None

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        self.frames.append((frame_type, payload))
        self.changed.set()

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        self.openings.append((lane, opening))
        if self.on_opening is not None:
            self.on_opening(lane, opening)
        self.changed.set()

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        self.closed.append(error)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@dataclass
class RawLane:
    """One end of a lane that a test drives, to do what no carrier does."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def frame(self) -> tuple[int, bytes]:
        """The next frame that is not a PING."""
        while True:
            header = await self.reader.readexactly(HEADER_SIZE)
            payload = await self.reader.readexactly(int.from_bytes(header[1:]))
            if header[0] != FrameType.PING:
                return header[0], payload

    async def closed(self) -> None:
        """Return once the other end has closed the lane; what it sends before is ignored."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
        self.writer.transport.abort()


class RawNode:
    """A node that a test drives: the lanes that are dialled to it, in order."""

    def __init__(self, target: DialTarget) -> None:
        self.target = target
        self.lanes: asyncio.Queue[RawLane] = asyncio.Queue()

    def open(self, number: int) -> bytes:
        return encode_open(number, OPENING)


async def until(condition: Callable[[], bool]) -> None:
    """Run the loop until the condition is true, within the test's own time limit."""
    while not condition():  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0.001)


async def until_still(value: Callable[[], int]) -> None:
    """Run the loop until the value is above 0 and was the same in _STILL_AFTER looks, one in each millisecond: what was
    moved is in buffers that are full. It is looks that are counted, since nothing moves in a pause of the machine."""
    last = same = 0

    def is_still() -> bool:
        nonlocal last, same
        now = value()
        last, same = now, same + 1 if now == last else 0
        return now > 0 and same >= _STILL_AFTER

    await until(is_still)


def reset(end: socket.socket | asyncio.StreamWriter) -> None:
    """Reset the connection: to the other end a close would look like a half-close."""
    sock = end if isinstance(end, socket.socket) else end.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(end, socket.socket):
        end.close()
    else:
        end.transport.abort()


async def broken_off(reader: asyncio.StreamReader) -> bytes:
    """The bytes before the other end reset the connection. Raises AssertionError when it ended in order."""
    received = bytearray()
    try:
        while data := await reader.read(1 << 16):
            received += data
    except ConnectionResetError:
        return bytes(received)
    raise AssertionError(f"it ended in order, after {len(received)} bytes")


def stream_of(end: VisitEnd) -> Stream:
    """The visitor that was handed back, where it came as a stream."""
    assert end.visitor is not None
    return cast(Stream, end.visitor)


def lane_of(end: VisitEnd) -> Lane:
    """The visitor that was handed back, where it came as a lane of an unanswered opening."""
    assert end.visitor is not None
    return cast(Lane, end.visitor)


def transport_of(writer: asyncio.StreamWriter) -> asyncio.Transport:
    """What pauses and resumes reading, which a StreamWriter does not declare of its transport."""
    return cast(asyncio.Transport, writer.transport)


def listener() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0), backlog=256)
    sock.setblocking(False)
    return sock


class CarrierLink:
    """A node's end and a client's end: `node` accepts lanes and parks them, `client` dials and serves them.

    It is the ServeEvents of the client: `refused` has the reason and the message of each. `accepted` are the sockets of
    visitors, which have no descriptor once the node has closed them.
    """

    def __init__(self, node: Carrier, client: Carrier, server_tls: ServerTls, client_tls: ClientTls) -> None:
        self.node = node
        self.client = client
        self.table: dict[str, LocalService] = {}
        self.accepted: list[socket.socket] = []
        self.joined: list[Visit] = []
        self.ends: list[tuple[Visit, VisitEnd]] = []
        self.refused: list[tuple[RefusalReason, str]] = []
        self.lost: list[CarrierError] = []
        self.lanes: list[Lane] = []
        self.node_events = Recorder()
        self.client_events = Recorder()
        self.recorders: list[Recorder] = []  # of the lanes, in order
        self._server_tls = server_tls
        self.client_tls = client_tls
        self._changed = asyncio.Event()
        self._accepting: list[asyncio.Task[None]] = []
        self._sockets: list[socket.socket] = []

    async def start(self, sizes: SpareSizes, pool_limits: PoolLimits) -> None:
        link = self.link_address = self._listen(self._accept_lane)
        control = self.client.connect(link, self.client_tls)
        await control.ready()
        self.client_control = self.client.lane(control, Side.ACCEPTOR, self.client_events)
        self.client_control.send(FrameType.HELLO, b"hello")
        await self._until(lambda: bool(self.lanes))
        self.pool: Pool = self.node.pool(self.lanes[0], pool_limits)
        self.serving = self.client.dialling_pool(
            DialTarget(link, self.client_tls, (FrameType.PARK, b"park")), Side.ACCEPTOR, sizes, self.lost.append
        )
        self.client.serve(self.serving, self.table, self)
        await until(lambda: self.pool.counts.idle >= sizes.quiet)

    def serve_with(self, port: int, host: str | None = None) -> None:
        self.table[LABEL] = LocalService(port, host)

    def visitors(self, tls: ServerTls | None = None, opening: Opening = OPENING) -> Endpoint:
        """Open a public address: each connection is joined to the pool."""

        async def join(sock: socket.socket) -> None:
            self.accepted.append(sock)
            self.joined.append(self.node.join(self.node.accept(sock, tls), self.pool, opening, self.ended))

        return self._listen(join)

    def visit_refused(self, opening: Opening, reason: RefusalReason, message: str) -> None:
        assert opening.label == LABEL
        self.refused.append((reason, message))

    def ended(self, visit: Visit, end: VisitEnd) -> None:
        self.ends.append((visit, end))
        self._changed.set()

    async def end(self, count: int = 1) -> VisitEnd:
        await self._until(lambda: len(self.ends) >= count)
        return self.ends[count - 1][1]

    async def settled(self) -> None:
        """Return once every lane is idle on both sides."""
        await until(lambda: self.pool.counts.busy == 0 and self.serving.counts.busy == 0)

    def _listen(self, handle: Callable[[socket.socket], Awaitable[None]]) -> Endpoint:
        sock = listener()
        self._sockets.append(sock)

        async def accept() -> None:
            loop = asyncio.get_running_loop()
            while True:
                connection, _ = await loop.sock_accept(sock)
                await handle(connection)

        self._accepting.append(asyncio.ensure_future(accept()))
        return Endpoint("127.0.0.1", sock.getsockname()[1])

    async def _accept_lane(self, sock: socket.socket) -> None:
        stream: Stream = self.node.accept(sock, self._server_tls)
        self._accepting.append(asyncio.ensure_future(self._greet(stream)))

    async def _greet(self, stream: Stream) -> None:
        try:
            await stream.ready()
        except CarrierError:
            return
        events = self.node_events if not self.lanes else Recorder()
        self.recorders.append(events)
        lane = self.node.lane(stream, Side.OPENER, events)
        self.lanes.append(lane)
        await events.until(lambda: bool(events.frames or events.closed))
        if events.frames and events.frames[0][0] == FrameType.PARK:
            self.pool.park(lane)
        elif events.frames and events.frames[0][0] == FrameType.HELLO:
            self._accepting.append(asyncio.ensure_future(self._answer_wants()))
        self._changed.set()

    async def _answer_wants(self) -> None:
        """Pass WANT to the pool, as the client's engine does."""
        seen = 0
        events = self.client_events

        def news() -> bool:
            return len(events.frames) > seen or bool(events.closed)

        while not events.closed:
            await events.until(news)
            for frame_type, payload in events.frames[seen:]:
                if frame_type == FrameType.WANT:
                    self.serving.want(lane_pb2.Want.FromString(payload).lanes)
            seen = len(events.frames)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for sock in self._sockets:
            sock.close()


async def relayed(near: CarrierLink, far: CarrierLink) -> Recorder:
    """The only lane of `near`, whose openings the carrier in the middle joins to the pool of `far`.

    The client of `near` serves nothing, so it must not answer a WANT: a visitor that comes while the lane is busy could
    be given its lane."""
    near.serving.retire()
    await until(lambda: near.pool.counts.idle == 0)
    between = far.node
    stream = between.connect(near.link_address, near.client_tls)
    await stream.ready()
    events = Recorder()
    events.on_opening = lambda lane, opening: between.join(lane, far.pool, opening, far.ended)
    between.lane(stream, Side.ACCEPTOR, events).send(FrameType.PARK, b"park")
    await until(lambda: near.pool.counts.idle == 1)
    return events


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def local_server(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A local server; its connections are closed when their handler returns, and all at the end."""
    running: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        if running:
            await asyncio.wait(running)
        await asyncio.sleep(0)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def visit(address: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(address.host, address.port)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        pass


# Types of the fixtures of the carrier's contract tests; what they make is closed after the test.
CarrierMaker = Callable[..., Carrier]  # of limits
LinkMaker = Callable[..., Awaitable[CarrierLink]]  # of limits, numbers of spare lanes, a pool's limits
RawAcceptorMaker = Callable[[CarrierLink], Awaitable[RawLane]]
RawNodeMaker = Callable[[], Awaitable[RawNode]]
RawOpenerMaker = Callable[..., Awaitable[RawLane]]  # of the local server's port, limits, a form of PROXY headers
