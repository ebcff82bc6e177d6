"""The carrier itself: what it owns, and the contract's calls."""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

from portway_proto.carry.contract import (
    Address,
    ClientTls,
    Counters,
    DialTarget,
    Lane,
    LaneEvents,
    Limits,
    LocalService,
    Pool,
    PoolLimits,
    ServeEvents,
    ServerTls,
    SpareSizes,
    Stream,
    VisitEnded,
)
from portway_proto.carry.errors import CarrierError, ConnectFailed, ConnectionLost, HandshakeFailed, TlsSettingsError
from portway_proto.carry.python.joined import JoinedVisit
from portway_proto.carry.python.lane import PyLane
from portway_proto.carry.python.pool import PyPool
from portway_proto.carry.python.relayed import LaneStream
from portway_proto.carry.python.spares import Spares
from portway_proto.carry.python.stream import PyStream
from portway_proto.carry.python.sweep import Sweep
from portway_proto.carry.python.tls import Contexts
from portway_proto.carry.python.visit import RunningVisit
from portway_proto.carry.tasks import Tasks
from portway_proto.wire.frames import Opening
from portway_proto.wire.lane import Side

logger = logging.getLogger(__name__)

P = ParamSpec("P")


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
        self.streams: set[PyStream] = set()
        self.lanes: set[PyLane] = set()
        self.closing: set[PyLane] = set()  # over for their owners, not yet for the kernel
        self.pools: set[PyPool] = set()
        self._visits: set[RunningVisit] = set()
        self._counters = Counters()
        self._contexts = Contexts()
        self._sweep = Sweep(self)

    @property
    def counters(self) -> Counters:
        """The ended visits' bytes were added up; those that run are read now."""
        total = self._counters
        running_in = running_out = 0
        for visit in self._visits:
            running_in += visit.to_lane
            running_out += visit.from_lane
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
            name = sock.getpeername()
        except TlsSettingsError:
            sock.close()
            raise
        except OSError:
            name = ("", 0)
        stream = PyStream(self, Address(name[0], name[1]), tls=tls is not None)
        self.streams.add(stream)
        self.tasks.spawn(self._accept(stream, sock, context), name="handshake")
        return stream

    async def _accept(self, stream: PyStream, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        sock.setblocking(False)
        timeouts: dict[str, Any] = self._timeouts() if context is not None else {}
        try:
            await self.loop.connect_accepted_socket(lambda: stream, sock, ssl=context, **timeouts)
        except (OSError, asyncio.CancelledError) as error:
            sock.close()
            self._counters.handshakes_failed += 1
            stream.failed(_handshake_error(error))
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            self._counters.handshakes += context is not None

    def connect(self, address: Address, tls: ClientTls | None) -> Stream:
        context = self._contexts.of(tls) if tls is not None else None
        stream = PyStream(self, address, tls=tls is not None)
        self.streams.add(stream)
        self.tasks.spawn(self._connect(stream, address, tls, context), name=f"connect to {address}")
        return stream

    async def _connect(
        self, stream: PyStream, address: Address, tls: ClientTls | None, context: ssl.SSLContext | None
    ) -> None:
        timeouts: dict[str, Any] = self._timeouts() if context is not None else {}
        if tls is not None:
            timeouts["server_hostname"] = tls.server_name
        try:
            async with asyncio.timeout(self.limits.handshake):
                await self.loop.create_connection(lambda: stream, address.host, address.port, ssl=context, **timeouts)
        except (ssl.SSLError, ConnectionAbortedError) as error:
            stream.failed(_handshake_error(error))
        except TimeoutError:
            stream.failed(ConnectFailed(f"{address} did not answer within {self.limits.handshake:g} s"))
        except OSError as error:
            stream.failed(ConnectFailed(f"{address}: {error.strerror or error}"))
        except asyncio.CancelledError:
            stream.failed(ConnectionLost("closed here", clean=True))
            raise

    def _timeouts(self) -> dict[str, Any]:
        return {"ssl_handshake_timeout": self.limits.handshake, "ssl_shutdown_timeout": self.limits.linger}

    def lane(self, stream: Stream, side: Side, events: LaneEvents) -> PyLane:
        assert isinstance(stream, PyStream)
        transport = stream.transport
        if transport is None:
            raise stream.lost or ConnectionLost("the stream is not ready")
        lane = PyLane(self, transport, stream.peer, side, events)
        self.streams.discard(stream)
        self.lanes.add(lane)
        self._counters.lanes_opened += 1
        transport.set_protocol(lane)
        held = stream.take_held()
        stream.resume_source()
        for data in held:
            lane.data_received(bytes(data))
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
        pool = PyPool(self, side, PoolLimits(lanes=sizes.lanes), None)
        pool.spares = Spares(self, pool, target, sizes, on_lost)
        self.pools.add(pool)
        return pool

    def join(self, visitor: Stream | Lane, pool: Pool, opening: Opening, ended: VisitEnded) -> JoinedVisit:
        assert isinstance(pool, PyPool)
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
        self.loop.call_later(self.limits.linger, stream.abort)

    async def close(self) -> None:
        self._sweep.close()
        for pool in list(self.pools):
            pool.close()
        for lane in list(self.lanes):
            lane.abort()
        for lane in list(self.closing):
            lane.transport.abort()
        for stream in list(self.streams):
            stream.abort()
        await self.tasks.close()
        # Transports tell their protocols of the end on the next turn of the loop; sockets close the turn after.
        for _ in range(3):
            await asyncio.sleep(0)

    def abandon(self) -> None:
        transports = [stream.transport for stream in self.streams] + [
            lane.transport for lane in self.lanes | self.closing
        ]
        for transport in transports:
            sock = transport.get_extra_info("socket") if transport is not None else None
            if sock is not None and sock.fileno() >= 0:
                os.close(sock.fileno())

    # What its parts tell it.

    def lane_gone(self, lane: PyLane) -> None:
        self.lanes.discard(lane)
        self._counters.lanes_closed += 1

    def visit_begins(self, visit: RunningVisit) -> None:
        self._visits.add(visit)
        self._counters.visits_started += 1

    def visit_over(self, visit: RunningVisit) -> None:
        if visit in self._visits:
            self._visits.discard(visit)
            self._counters.visits_ended += 1
            self._counters.bytes_in += visit.to_lane
            self._counters.bytes_out += visit.from_lane

    def call_safely(self, callback: Callable[P, None], *arguments: P.args, **keywords: P.kwargs) -> None:
        """Call what an owner gave us; its failure is logged and stays its own."""
        try:
            callback(*arguments, **keywords)
        except Exception:
            logger.exception("a callback failed")


def _handshake_error(error: BaseException) -> CarrierError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return HandshakeFailed(f"the peer's certificate is not trusted: {error.verify_message}", untrusted=True)
    if isinstance(error, ssl.SSLError):
        return HandshakeFailed(f"TLS: {error.reason or error}")
    if isinstance(error, asyncio.CancelledError):
        return ConnectionLost("closed here", clean=True)
    return HandshakeFailed(f"the connection ended during the handshake: {error}")
