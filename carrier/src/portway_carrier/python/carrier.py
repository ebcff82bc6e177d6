"""The carrier itself: what it owns, and the contract's calls."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import ParamSpec

from portway_proto.wire.frames import Opening, encode_open
from portway_proto.wire.lane import Side
from portway_runtime.endpoints import Endpoint
from portway_runtime.tasks import Tasks

from portway_carrier.contract import Counters, Lane, LaneEvents, LocalService, Pool, ServeEvents, Stream, VisitEnded
from portway_carrier.errors import CarrierError, ConnectionLost, TlsSettingsError
from portway_carrier.python.core.buffers import ReadBuffer
from portway_carrier.python.lanes.deferred_opened import LateFrames
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.lanes.pool import PyPool
from portway_carrier.python.lanes.spares import Spares
from portway_carrier.python.liveness import Sweep
from portway_carrier.python.transport import establish
from portway_carrier.python.transport.connection import Connection
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.python.transport.tls_contexts import Contexts
from portway_carrier.python.transport.tls_transport import CIPHERTEXT_SIZE
from portway_carrier.python.visits.joined import JoinedVisit
from portway_carrier.python.visits.lane_stream import LaneStream
from portway_carrier.python.visits.running import RunningVisit
from portway_carrier.values import ClientTls, DialTarget, Limits, PoolLimits, ServerTls, SpareSizes

logger = logging.getLogger(__name__)

P = ParamSpec("P")

# A few suffice on either loop; one that takes more is not waited for.
_TURNS_TO_CLOSE = 20
_LINGER_POLL = 0.005  # nobody counts the connections that are closing until a process ends


class _NoEvents:
    """A dialled lane before its pool has it: nothing may come yet but its end, which parking sees."""

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        lane.abort()

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.abort()

    def lane_closed(self, lane: Lane, error: CarrierError) -> None: ...


class PythonCarrier:
    """The contract's Carrier on the running asyncio loop."""

    name = "python"

    def __init__(self, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.tasks = Tasks("carrier")
        self.connections: set[Connection] = set()  # all that have a transport, those that are closing among them
        self.streams: set[PyStream] = set()  # not yet over for their owners, those that are not yet up among them
        self.lanes: set[PyLane] = set()  # not yet over for their owners
        self.pools: set[PyPool] = set()
        self._visits: set[RunningVisit] = set()
        self.read_buffer = ReadBuffer()
        self.ciphertext = memoryview(bytearray(CIPHERTEXT_SIZE))  # read and not yet decrypted
        self.totals = Counters()  # of visits that have ended
        self._contexts = Contexts()
        self._sweep = Sweep(self)
        self.late = LateFrames(self)

    @property
    def counters(self) -> Counters:
        total = self.totals
        running_in = running_out = 0
        for visit in self._visits:
            running_in += visit.bytes_in
            running_out += visit.bytes_out
        return Counters(
            total.bytes_in + running_in,
            total.bytes_out + running_out,
            total.visits_started,
            total.visits_ended,
            total.handshakes,
            total.handshakes_failed,
            total.lanes_opened,
            total.lanes_closed,
        )

    def accept(self, sock: socket.socket, tls: ServerTls | None) -> Stream:
        try:
            context = self._contexts.of(tls) if tls is not None else None
        except TlsSettingsError:
            sock.close()
            raise
        stream = PyStream(self, _peer_of(sock), tls=tls is not None)
        accepting = establish.accept(self, stream, sock, context)
        stream.opening = self.tasks.spawn(accepting, name="accept", on_cut=sock.close)
        return stream

    def connect(self, address: Endpoint, tls: ClientTls | None) -> PyStream:
        context = self._contexts.of(tls) if tls is not None else None
        stream = PyStream(self, address, tls=tls is not None)
        stream.opening = self.tasks.spawn(establish.connect(self, stream, tls, context), name=f"connect to {address}")
        return stream

    def lane(self, stream: Stream, side: Side, events: LaneEvents) -> PyLane:
        assert isinstance(stream, PyStream)
        transport = stream.transport
        if stream.lost is not None or transport is None or transport.is_closing():
            stream.abort()
            raise stream.lost or ConnectionLost("the connection was lost before it was framed")
        lane = PyLane(self, transport, stream.peer, side, events, tls=stream.tls)
        self.lanes.add(lane)
        self.totals.lanes_opened += 1
        transport.set_protocol(lane)
        for data in stream.give_to(lane):
            lane.data_received(memoryview(data))
        return lane

    def lane_of(self, stream: Stream, side: Side) -> PyLane:
        """A lane that a pool of this carrier dialled for itself."""
        return self.lane(stream, side, _NoEvents())

    def pool(self, control: Lane | None, limits: PoolLimits) -> Pool:
        assert control is None or isinstance(control, PyLane)
        pool = PyPool(self, Side.OPENER, limits, control)
        self.pools.add(pool)
        return pool

    def dialling_pool(
        self, target: DialTarget, side: Side, sizes: SpareSizes, on_lost: Callable[[CarrierError], None]
    ) -> Pool:
        pool = PyPool(self, side, PoolLimits(lanes=sizes.lanes, wait=sizes.wait), None)
        pool.spares = Spares(self, pool, target, sizes, on_lost)
        self.pools.add(pool)
        return pool

    def join(self, visitor: Stream | Lane, pool: Pool, opening: Opening, ended: VisitEnded) -> JoinedVisit:
        assert isinstance(pool, PyPool)
        encode_open(1, opening)  # raises here what would be raised where nobody can tell the caller
        if isinstance(visitor, PyLane):
            stream: PyStream | LaneStream = LaneStream(visitor)
        else:
            assert isinstance(visitor, PyStream)
            stream = visitor
        visit = JoinedVisit(self, stream, pool, opening, ended)
        self.visit_begins(visit)
        visit.start()
        return visit

    def serve(self, pool: Pool, table: Mapping[str, LocalService], events: ServeEvents | None = None) -> None:
        assert isinstance(pool, PyPool)
        pool.serve(table, events)

    def finish(self, stream: Stream, data: bytes) -> None:
        assert isinstance(stream, PyStream)
        stream.finish(data)

    async def close(self, linger: float = 0.0) -> None:
        self._sweep.close()
        for pool in list(self.pools):
            pool.close()
        deadline = self.loop.time() + linger
        while self.loop.time() < deadline and any(  # noqa: ASYNC110
            one.is_closing() for one in self.connections
        ):
            await asyncio.sleep(_LINGER_POLL)
        for lane in list(self.lanes):
            lane.abort()
        for stream in list(self.streams):
            stream.abort()
        await self.tasks.close()
        for connection in list(self.connections):
            connection.drop()
        # Transports tell their protocols of the end on a later turn of the loop, and close their sockets on the next.
        turns = _TURNS_TO_CLOSE
        while turns and self.connections:
            await asyncio.sleep(0)
            turns -= 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def abandon(self) -> None:
        for connection in self.connections:
            transport = connection.transport
            sock = transport.get_extra_info("socket") if transport is not None else None
            if sock is not None and sock.fileno() >= 0:
                os.close(sock.fileno())

    # What its parts tell it.

    def lane_gone(self, lane: PyLane) -> None:
        self.lanes.discard(lane)
        self.totals.lanes_closed += 1

    def visit_begins(self, visit: RunningVisit) -> None:
        self._visits.add(visit)
        self.totals.visits_started += 1

    def visit_over(self, visit: RunningVisit) -> None:
        if visit in self._visits:
            self._visits.discard(visit)
            self.totals.visits_ended += 1
            self.totals.bytes_in += visit.bytes_in
            self.totals.bytes_out += visit.bytes_out

    def tell(
        self,
        on_failure: Callable[[], None] | None,
        callback: Callable[P, None],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> None:
        """Call an owner back, later; where it fails that is logged, and what it concerns is closed by `on_failure`."""
        self.loop.call_soon(self._call_back, on_failure, lambda: callback(*arguments, **keywords))

    def _call_back(self, on_failure: Callable[[], None] | None, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            logger.exception("a callback failed")
            if on_failure is not None:
                on_failure()


def _peer_of(sock: socket.socket) -> Endpoint:
    try:
        name = sock.getpeername()
    except OSError:  # gone already; the stream tells
        return Endpoint("", 0)
    return Endpoint(name[0], name[1]) if isinstance(name, tuple) else Endpoint("", 0)
