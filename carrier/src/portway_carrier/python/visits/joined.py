"""The opener's visit: from `join`, through the waits for handshake, lane and OPENED, to a visit that runs."""

from typing import Final

from portway_proto.wire.frames import Bytes, Opening, RefusalReason
from portway_proto.wire.limits import MAX_KEPT

from portway_carrier.contract import VisitEnd, VisitEnded
from portway_carrier.errors import CarrierError, PeerSilent
from portway_carrier.python.core.core import Core
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.lanes.pool import PyPool
from portway_carrier.python.transport import kernel
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.python.visits.lane_stream import LaneStream
from portway_carrier.python.visits.running import RunningVisit
from portway_carrier.values import Outcome

# RFC 8446 §4.1.2; nodes speak no older version with visitors.
_TLS_VERSIONS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


class JoinedVisit(RunningVisit):
    """The contract's Visit. Until OPENED it is its stream's Partner."""

    __slots__ = (
        "_asked_at",
        "_kept",
        "_kept_size",
        "_mark",
        "_on_end",
        "_opened",
        "_pool",
        "_surplus",
        "_wants_lane",
        "wait_deadline",
    )

    def __init__(
        self, core: Core, visitor: PyStream | LaneStream, pool: PyPool, opening: Opening, on_end: VisitEnded
    ) -> None:
        super().__init__(core, opening)
        self.stream = visitor
        self.wait_deadline = 0.0  # set by the pool when the visit has to wait for a lane
        self._pool = pool
        self._on_end = on_end
        self._kept: list[Bytes] = []  # sent before OPENED, and kept to be handed back if the visit is refused
        self._kept_size = 0
        self._surplus: list[Bytes] = []  # read, but over the limit of what may be sent before OPENED
        self._opened = False
        self._wants_lane = False  # the visitor is ready and the pool has not been asked for a lane
        self._asked_at: float | None = None  # when the pool was
        self._mark: kernel.Mark | None = None  # before OPEN, on a lane of a pool that marks openings

    @property
    def buffered(self) -> int:
        held = self.stream.held_size if isinstance(self.stream, PyStream) else 0
        return super().buffered + held + self._kept_size + sum(map(len, self._surplus))

    @property
    def unreached_for(self) -> float | None:
        if self.over or self._opened or not self._pool.marks_openings:
            return None
        if self._asked_at is None:
            return 0.0
        if self.lane is not None and (self._mark is None or not self._mark.is_last):
            return None
        return self.core.loop.time() - self._asked_at

    def start(self) -> None:
        stream = self.stream
        assert stream is not None
        if isinstance(stream, LaneStream) and stream.transport is not None:
            # The other node can tell now that this one has the visit, which is about to be passed on.
            kernel.acknowledge(stream.transport)
        self.core.visit_started(self)
        stream.owner = self
        if stream.lost is not None:
            self.stream_lost(stream.lost)
        elif stream.transport is not None:
            self.stream_ready()

    def stream_ready(self) -> None:
        """Take a lane after one more poll of the sockets: by then a visitor that speaks first has often sent bytes,
        which leave in the same write as OPEN."""
        self._tell_handshake()
        self._wants_lane = True
        call_soon = self.core.loop.call_soon
        call_soon(call_soon, self._take_lane)

    def _tell_handshake(self) -> None:
        """OPEN says what the visitor's TLS came to."""
        stream = self.stream
        if not isinstance(stream, PyStream) or not stream.tls or stream.transport is None:
            return
        tls = stream.transport.get_extra_info("ssl_object")
        version, alpn = _TLS_VERSIONS.get(tls.version(), 0), tls.selected_alpn_protocol() or ""
        told = self._opening  # `replace` would take four times as long
        self._opening = Opening(
            told.label, told.visitor_host, told.visitor_port, told.kind, version, told.server_name, alpn
        )

    def _take_lane(self) -> None:
        if not self._wants_lane or self.stream is None or self.over:
            return
        self._wants_lane = False
        self._asked_at = self.core.loop.time()
        lane = self._pool.take(self)
        if lane is not None:
            self.begin(lane)

    def begin(self, lane: PyLane) -> None:
        """Send OPEN on `lane`, with what the visitor has sent so far."""
        stream = self.stream
        assert stream is not None
        self.lane = lane
        first: list[Bytes] = []
        for data in stream.take_held():
            self._keep(data, first)
        stream.partner = self
        if self._pool.marks_openings and lane.transport is not None:
            self._mark = kernel.Mark(lane.transport)
        lane.begin(self, self.opening, first)
        if stream.ended and not self._surplus:
            lane.send_end()
        if self._may_read():
            stream.resume_source()

    def no_lane(self, message: str) -> None:
        self._hand_back(Outcome.NO_LANE, RefusalReason.OVERLOADED, message)

    # Partner, until OPENED.

    def carry_read(self, size: int) -> None:
        self.carry(self.core.read_buffer.room[:size])

    def carry(self, data: Bytes) -> None:
        sendable: list[Bytes] = []
        self._keep(data, sendable)
        if self.lane is not None:
            for piece in sendable:
                self.lane.carry(piece)
        if not self._may_read() and self.stream is not None:
            self.stream.pause_source()

    def pause_source(self) -> None:
        """The visitor takes no more bytes. None are received from the lane before OPENED, and `run` looks then."""

    def resume_source(self) -> None:
        """See pause_source."""

    def _keep(self, data: Bytes, sendable: list[Bytes]) -> None:
        """Keep `data`; what may be sent of it before OPENED is appended to `sendable`."""
        room = MAX_KEPT - self._kept_size
        if self._surplus or room <= 0:
            self._surplus.append(bytes(data))
            return
        piece = bytes(data[:room])
        self._kept.append(piece)
        self._kept_size += len(piece)
        sendable.append(piece)
        if len(data) > room:
            self._surplus.append(bytes(data[room:]))

    def _may_read(self) -> bool:
        return self._kept_size < MAX_KEPT and self.lane is not None and not self.lane.writes_paused

    # LaneVisit.

    def lane_opened(self) -> None:
        lane, stream = self.lane, self.stream
        assert lane is not None
        assert stream is not None
        self._opened = True
        surplus, self._kept, self._surplus = self._surplus, [], []
        self._kept_size = 0
        for data in surplus:
            lane.carry(data)
        if isinstance(stream, LaneStream):
            stream.accepted()
        lane.sink = stream.write
        self.run()
        if stream.ended:
            lane.send_end()

    def lane_refused(self, reason: RefusalReason, message: str) -> None:
        if self.lane is not None:
            self._leave_lane(self.lane)
        self._hand_back(Outcome.REFUSED, reason, message)

    def lane_unanswered(self) -> None:
        lane = self.lane
        if lane is not None:
            self._leave_lane(lane)
            lane.send_reset()
            self._hand_back(Outcome.UNANSWERED, RefusalReason.OTHER, "OPEN was not answered in time")

    def lane_lost(self, error: CarrierError) -> None:
        mark = self._mark
        if self._opened or mark is None or not mark.is_last:
            super().lane_lost(error)
            return
        kernel.reset_on_close(mark.transport)  # or else what was written may still arrive
        if self.lane is not None:
            self._leave_lane(self.lane)
        self._hand_back(Outcome.UNREACHED, RefusalReason.OTHER, f"OPEN did not arrive: {error}")

    def lane_resumed(self) -> None:
        if self.stream is not None and (self._opened or self._may_read()):
            self.stream.resume_source()

    # StreamOwner.

    def stream_ended(self) -> None:
        self._take_lane()  # now: a TLS stream is lost next, and what it has sent is still to be delivered
        if self._opened or (self.lane is not None and not self._surplus):
            super().stream_ended()

    def stream_lost(self, error: CarrierError) -> None:
        if self._opened:
            super().stream_lost(error)
            return
        self.stream = None
        if self.lane is not None:
            lane = self.lane
            self._leave_lane(lane)
            lane.send_reset()
        else:
            self._pool.stop_waiting(self)
        self._finish(Outcome.VISITOR_LOST, error)

    def take_back(self) -> None:
        if self.unreached_for is None:
            return
        if self.lane is None:
            self._wants_lane = False
            self._pool.stop_waiting(self)
            self.no_lane("it was taken back")
        else:
            self.lane.abort(PeerSilent("an OPEN was not acknowledged"))

    def cut(self) -> None:
        if not self.over and self.lane is None:
            self._pool.stop_waiting(self)
        super().cut()

    def _hand_back(self, outcome: Outcome, reason: RefusalReason, message: str) -> None:
        stream, self.stream = self.stream, None
        if self.over:
            return
        self.over = True
        visitor: PyStream | PyLane | None = None
        if stream is not None:
            visitor = stream.hand_back([*self._kept, *self._surplus])
        self._kept, self._surplus, self._kept_size = [], [], 0  # the visitor holds them
        self._report(VisitEnd(outcome, reason, message, visitor))

    def ended(self, outcome: Outcome, error: CarrierError | None = None) -> None:
        self._kept, self._surplus = [], []
        self._report(VisitEnd(outcome, message=str(error) if error is not None else ""))

    def _report(self, end: VisitEnd) -> None:
        self.core.visit_ended(self)
        self.core.notify(end.visitor.abort if end.visitor is not None else None, self._on_end, self, end)
