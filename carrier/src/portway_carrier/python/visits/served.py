"""The acceptor's visit: an OPEN for a label of the table, the local connection dialled for it, the two joined."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from portway_proto.wire.frames import Bytes, Opening, RefusalReason
from portway_proto.wire.lane import Ending
from portway_runtime.endpoints import Endpoint

from portway_carrier.contract import LocalService, Outcome, ServeEvents
from portway_carrier.errors import CarrierError, ConnectFailed
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.transport import establish, kernel
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.python.visits.running import RunningVisit

if TYPE_CHECKING:
    from portway_carrier.python.carrier import PythonCarrier

_THIS_MACHINE = ("127.0.0.1", "::1")


class ServedVisit(RunningVisit):
    """A visit on its way to a local server."""

    __slots__ = ("_dial", "_events", "_owed", "_service")

    def __init__(
        self,
        carrier: "PythonCarrier",
        lane: PyLane,
        opening: Opening,
        service: LocalService,
        events: ServeEvents | None,
    ) -> None:
        super().__init__(carrier, opening)
        self.lane = lane
        self._service = service
        self._events = events
        self._dial: asyncio.Task[None] | None = None
        self._owed: list[Bytes] | None = None  # of a visitor that ended and left while the local server was dialled

    @property
    def bytes_in(self) -> int:
        return self.from_lane

    @property
    def bytes_out(self) -> int:
        return self.to_lane

    def start(self) -> None:
        assert self.lane is not None
        self.lane.visit = self
        self._dial = self.carrier.tasks.spawn(self._connect(), name="dial the local server")

    async def _connect(self) -> None:
        hosts = (self._service.host,) if self._service.host is not None else _THIS_MACHINE
        failures = []
        reason = RefusalReason.UNREACHABLE
        for host in hosts:
            stream = PyStream(self.carrier, Endpoint(host, self._service.port), tls=False)
            await establish.connect(self.carrier, stream)
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
        if self._owed is not None:
            for data in self._owed:
                stream.write(data)
            stream.close()
            return
        if lane is None or lane.opening is None:
            stream.abort()
            return
        self.stream = stream
        stream.owner = self
        lane.accept(stream.write, late=True)  # it saves a read, a write and a TLS record on each side
        self.run()
        for data in stream.take_held():
            lane.carry(data)
        if lane.state.received is Ending.END:
            stream.send_end()
        if stream.ended:
            self.stream_ended()
        elif stream.partner is lane:
            stream.partner = self

    # Partner, until the local server has said something.

    def carry_read(self, size: int) -> None:
        """A short answer is often the whole one, its end right behind it: the two leave in one write then."""
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
        self.carrier.visit_over(self)
        if self._events is not None:
            self.carrier.tell(None, self._events.visit_refused, self.opening, reason, message)

    def ended(self, outcome: Outcome, error: CarrierError | None = None) -> None:
        if self._dial is not None and self._owed is None:
            self._dial.cancel()
            self._dial = None
        self.carrier.visit_over(self)

    def lane_ended(self) -> None:
        if self.stream is not None:
            super().lane_ended()

    def lane_reset(self, in_order: bool) -> None:
        if in_order and self._dial is not None and self.lane is not None:
            self._owed = self.lane.early
        super().lane_reset(in_order)
