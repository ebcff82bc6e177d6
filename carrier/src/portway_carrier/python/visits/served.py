"""The acceptor's visits: an OPEN for a label of the table, a connection dialled to its local server, the two joined."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from portway_proto.wire.frames import Bytes, Opening, RefusalReason
from portway_proto.wire.lane import Ending
from portway_runtime.dialling import Dialler
from portway_runtime.endpoints import Endpoint

from portway_carrier.contract import ServeEvents
from portway_carrier.errors import CarrierError, ConnectFailed
from portway_carrier.python.core.core import Core
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.transport import establish, kernel
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.python.visits.running import RunningVisit
from portway_carrier.python.visits.visitor_header import visitor_header
from portway_carrier.values import LocalService, Outcome

_LOOPBACK: Final = ("127.0.0.1", "::1")


class LocalServices:
    """The local services that a pool serves, by label. `start_visit` is what the pool calls for each OPEN."""

    __slots__ = ("_events", "_table", "core", "defer", "dialler")

    def __init__(
        self,
        core: Core,
        dialler: Dialler,
        table: Mapping[str, LocalService],
        events: ServeEvents | None,
        defer: Callable[[PyLane, bytes], None],
    ) -> None:
        """`dialler` is that of local servers; `defer` bounds the wait of an OPENED that leaves with the local server's
        first bytes."""
        self.core = core
        self.dialler = dialler
        self.defer = defer
        self._table = table
        self._events = events

    def start_visit(self, lane: PyLane, opening: Opening) -> None:
        service = self._table.get(opening.label)
        if service is None:
            lane.refuse(RefusalReason.NOT_HERE)
            self.report_refusal(opening, RefusalReason.NOT_HERE, "no such tunnel here")
        else:
            ServedVisit(self, lane, opening, service).start()

    def report_refusal(self, opening: Opening, reason: RefusalReason, message: str) -> None:
        if self._events is not None:
            self.core.notify(None, self._events.visit_refused, opening, reason, message)


class ServedVisit(RunningVisit):
    """A visit to a local server. Until the server has sent something, it is the stream's Partner."""

    __slots__ = ("_dial", "_services", "_target", "_undelivered")

    def __init__(self, services: LocalServices, lane: PyLane, opening: Opening, target: LocalService) -> None:
        super().__init__(services.core, opening)
        self.lane = lane
        self._services = services
        self._target = target
        self._dial: asyncio.Task[None] | None = None
        # What a visitor sent that ended in order and left while the local server was being dialled.
        self._undelivered: list[Bytes] | None = None

    @property
    def bytes_in(self) -> int:
        return self.from_lane

    @property
    def bytes_out(self) -> int:
        return self.to_lane

    def start(self) -> None:
        assert self.lane is not None
        self.core.visit_started(self)
        self.lane.visit = self
        self._dial = self.core.tasks.spawn(self._connect(), name="dial the local server")

    async def _connect(self) -> None:
        hosts = (self._target.host,) if self._target.host is not None else _LOOPBACK
        failures = []
        reason = RefusalReason.UNREACHABLE
        for host in hosts:
            stream = PyStream(self.core, Endpoint(host, self._target.port), tls=False)
            await establish.connect(self.core, stream, self._services.dialler)
            if stream.lost is None:
                self._dial = None
                self._connected(stream)
                return
            failures.append(str(stream.lost))
            if isinstance(stream.lost, ConnectFailed) and stream.lost.exhausted:
                reason = RefusalReason.OVERLOADED
                break
        self._dial = None
        self._refuse(reason, "; ".join(failures))

    def _connected(self, stream: PyStream) -> None:
        lane = self.lane
        form = self._target.proxy_header
        if form is not None:
            stream.write(visitor_header(form, self.opening))
        if self._undelivered is not None:
            for data in self._undelivered:
                stream.write(data)
            stream.close()
            return
        if lane is None or lane.opening is None:
            stream.abort()
            return
        self.stream = stream
        stream.owner = self
        lane.accept(stream.write, self._services.defer)  # saves a read, a write and a TLS record on each side
        self.run()
        for data in stream.take_held():
            lane.carry(data)
        if lane.state.received is Ending.END:
            stream.send_end()
        if stream.ended:
            self.stream_ended()
        elif stream.partner is lane:
            stream.partner = self

    # Partner, until the local server has sent something.

    def carry_read(self, size: int) -> None:
        """Send the first answer. A short one is often the whole answer, and its end, if it has been received, leaves
        in the same write."""
        lane, stream = self.lane, self.stream
        assert lane is not None
        assert isinstance(stream, PyStream)
        stream.partner = lane
        if stream.transport is not None and lane.state.sends and kernel.at_end(stream.transport):
            stream.ended = True
            self.end_lane(lane, partial(lane.carry_last, size))
        else:
            lane.carry_read(size)

    def carry(self, data: Bytes) -> None:
        assert self.lane is not None
        self.lane.carry(data)

    def pause_source(self) -> None:
        assert self.lane is not None
        self.lane.pause_source()

    def resume_source(self) -> None:
        assert self.lane is not None
        self.lane.resume_source()

    def _refuse(self, reason: RefusalReason, message: str) -> None:
        lane = self.lane
        if self.over or lane is None:
            return
        self.over = True
        self._leave_lane(lane)
        lane.refuse(reason, message)
        self.core.visit_ended(self)
        self._services.report_refusal(self.opening, reason, message)

    def ended(self, outcome: Outcome, error: CarrierError | None = None) -> None:
        if self._dial is not None and self._undelivered is None:
            self._dial.cancel()
            self._dial = None
        self.core.visit_ended(self)

    def lane_ended(self) -> None:
        if self.stream is not None:
            super().lane_ended()

    def lane_reset(self, in_order: bool) -> None:
        if in_order and self._dial is not None and self.lane is not None:
            self._undelivered = self.lane.early_data
        super().lane_reset(in_order)
