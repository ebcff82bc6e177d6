"""The contract's calls, each passed to the part that does the work; and the end of everything at once."""

import asyncio
import os
import socket
from collections.abc import Callable, Collection, Mapping
from typing import Final

from portway_proto.wire.frames import Opening, encode_open
from portway_proto.wire.lane import Side
from portway_runtime.dialling import Dialler
from portway_runtime.endpoints import Endpoint
from portway_runtime.names import Names
from portway_runtime.proxies import Proxy

from portway_carrier.contract import Lane, LaneEvents, PassageEnded, Pool, ServeEvents, Stream, VisitEnded
from portway_carrier.errors import CarrierError
from portway_carrier.python.core.core import Core
from portway_carrier.python.lanes.deferred_opened import DeferredOpened
from portway_carrier.python.lanes.dialling_pool import DiallingPool
from portway_carrier.python.lanes.framing import frame_stream
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.lanes.pool import PyPool
from portway_carrier.python.liveness import Liveness
from portway_carrier.python.transport.establish import StreamFactory
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.python.visits.joined import JoinedVisit
from portway_carrier.python.visits.lane_stream import LaneStream
from portway_carrier.python.visits.passed_on import PassedOn
from portway_carrier.python.visits.served import LocalServices
from portway_carrier.values import (
    ClientTls,
    Counters,
    DialTarget,
    Limits,
    LocalService,
    PoolLimits,
    ServerTls,
    SpareSizes,
)

# Turns of the loop that aborted transports get to report their end: a few are enough on either loop.
_TURNS_TO_CLOSE: Final = 20
# Seconds. Closing connections are polled, because nothing counts them before a process ends.
_LINGER_POLL: Final = 0.005


class PythonCarrier:
    """The contract's Carrier on the running asyncio loop."""

    name = "python"

    def __init__(self, limits: Limits) -> None:
        self._core = Core(limits)
        self._streams = StreamFactory(self._core)
        # The names of local servers are whatever a program says: their look-ups must not hold up those of nodes.
        self._local_servers = Dialler(Names())
        self._deferred = DeferredOpened(self._core.loop)
        self._liveness = Liveness(self._core)

    @property
    def counters(self) -> Counters:
        return self._core.counters()

    def prepare(self, settings: Collection[ServerTls | ClientTls]) -> None:
        self._streams.contexts.prepare(settings)

    def accept(
        self,
        sock: socket.socket,
        tls: ServerTls | None,
        established: Callable[[], None] | None = None,
        *,
        peer: Endpoint | None = None,
    ) -> PyStream:
        return self._streams.accept(sock, tls, established, peer)

    def connect(self, address: Endpoint, tls: ClientTls | None, via: Proxy | None = None) -> PyStream:
        return self._streams.connect(address, tls, via)

    def lane(self, stream: Stream, side: Side, events: LaneEvents, *, greeted: bool = True) -> PyLane:
        assert isinstance(stream, PyStream)
        return frame_stream(stream, side, events, greeted=greeted)

    def pool(self, control: Lane | None, limits: PoolLimits) -> PyPool:
        assert control is None or isinstance(control, PyLane)
        return PyPool(self._core, Side.OPENER, limits, control)

    def dialling_pool(
        self, target: DialTarget, side: Side, sizes: SpareSizes, on_lost: Callable[[CarrierError], None]
    ) -> DiallingPool:
        return DiallingPool(self._core, side, sizes, target, self.connect, on_lost)

    def join(self, visitor: Stream | Lane, pool: Pool, opening: Opening, ended: VisitEnded) -> JoinedVisit:
        assert isinstance(pool, PyPool)
        encode_open(1, opening)  # raises ValueError now, and not where no caller would get it
        if isinstance(visitor, PyLane):
            stream: PyStream | LaneStream = LaneStream(visitor)
        else:
            assert isinstance(visitor, PyStream)
            stream = visitor
        visit = JoinedVisit(self._core, stream, pool, opening, ended)
        visit.start()
        return visit

    def serve(self, pool: Pool, table: Mapping[str, LocalService], events: ServeEvents | None = None) -> None:
        assert isinstance(pool, PyPool)
        pool.serve(LocalServices(self._core, self._local_servers, table, events, self._deferred.add).start_visit)

    def pass_on(self, visitor: Stream, far: Stream, header: bytes, within: float, ended: PassageEnded) -> PassedOn:
        assert isinstance(visitor, PyStream)
        assert isinstance(far, PyStream)
        passage = PassedOn(self._core, visitor, far, ended)
        passage.start(header, within)
        return passage

    def finish(self, stream: Stream, data: bytes) -> None:
        assert isinstance(stream, PyStream)
        stream.finish(data)

    def drop_closing(self) -> None:
        for connection in list(self._core.connections):
            if connection.is_closing():
                connection.drop()

    async def close(self, linger: float = 0.0) -> None:
        core = self._core
        self._liveness.close()
        for pool in list(core.pools):
            pool.close()
        deadline = core.loop.time() + linger
        while core.loop.time() < deadline and any(  # noqa: ASYNC110
            connection.is_closing() for connection in core.connections
        ):
            await asyncio.sleep(_LINGER_POLL)
        for lane in list(core.lanes):
            lane.abort()
        for stream in list(core.streams):
            stream.abort()
        await core.tasks.close()
        for connection in list(core.connections):
            connection.drop()
        # Transports call connection_lost on a later turn of the loop, and close their sockets on the turn after that.
        turns = _TURNS_TO_CLOSE
        while turns and core.connections:
            await asyncio.sleep(0)
            turns -= 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def abandon(self) -> None:
        for connection in self._core.connections:
            transport = connection.transport
            sock = transport.get_extra_info("socket") if transport is not None else None
            if sock is not None and sock.fileno() >= 0:
                os.close(sock.fileno())
