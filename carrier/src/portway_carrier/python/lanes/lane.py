"""A lane: the asyncio protocol of a framed connection. States are wire's; what a visit means is its visit's.

DATA goes from here to `sink`, a plain call, without passing through anything else.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from portway_proto.wire.errors import RemoteProtocolError
from portway_proto.wire.frames import (
    Bytes,
    FrameReader,
    FrameType,
    Opening,
    RefusalReason,
    data_header,
    encode_frame,
)
from portway_proto.wire.lane import (
    VISIT_FRAMES,
    Ending,
    LaneState,
    Side,
    Take,
    VisitEnded,
    VisitOpened,
    VisitOpening,
    VisitRefused,
    VisitReset,
)
from portway_proto.wire.limits import HEADER_SIZE, MAX_KEPT
from portway_runtime.endpoints import Endpoint

from portway_carrier.contract import LaneEvents
from portway_carrier.errors import CarrierError, ConnectionLost, PeerFailed, ProtocolViolation
from portway_carrier.python.lanes.lane_visit import LaneVisit
from portway_carrier.python.transport.connection import Connection

if TYPE_CHECKING:
    from portway_carrier.python.carrier import PythonCarrier
    from portway_carrier.python.lanes.pool import PyPool

_DATA: Final = int(FrameType.DATA)
# Below this, one copy is cheaper than a TLS record of its own for the header.
_JOINED_WRITE: Final = 64 * 1024


class PyLane(Connection):
    """Both the contract's Lane and the asyncio protocol of its connection."""

    __slots__ = (
        "_early_size",
        "_events",
        "_reader",
        "_stalled",
        "asked_at",
        "closed",
        "early",
        "late",
        "opening",
        "pings",
        "pool",
        "quiet_since",
        "received_bytes",
        "reset_at",
        "retiring",
        "sent_bytes",
        "sink",
        "state",
        "visit",
    )

    def __init__(
        self,
        carrier: "PythonCarrier",
        transport: asyncio.Transport,
        peer: Endpoint,
        side: Side,
        events: LaneEvents,
        *,
        tls: bool,
    ) -> None:
        super().__init__(carrier, peer, tls=tls)
        self.state = LaneState(side)
        self.pool: PyPool | None = None
        self.visit: LaneVisit | None = None
        self.sink: Callable[[Bytes], None] | None = None
        self.opening: Opening | None = None  # acceptor: of the visit that is neither taken nor refused
        self.early: list[Bytes] = []  # DATA that came before the visit was taken
        self.retiring = False
        self.sent_bytes = 0
        self.received_bytes = 0
        self.quiet_since = carrier.loop.time()  # the last bytes, or the last sweep that saw a visit
        self.pings = 0
        self.reset_at: float | None = None
        self.asked_at: float | None = None  # opener: when OPEN was sent that is not answered
        self.closed = False  # for its owner; the transport may still be closing
        self._events: LaneEvents | None = events
        self._reader = FrameReader()
        self._early_size = 0
        self.late = b""  # an OPENED that leaves with what is written next
        self._stalled = False  # not read, because the peer does not read
        self.attach(transport)

    # The contract.

    def send(self, frame_type: int, payload: bytes = b"") -> None:
        self._write(encode_frame(frame_type, payload))

    def refuse(self, reason: RefusalReason, message: str = "") -> None:
        if self.opening is None or self.closed:
            return
        self.opening = None
        self._write(self.state.refuse(reason, message))
        self.settle()

    def fail(self, payload: bytes) -> None:
        self.send(FrameType.FAIL, payload)
        self.close()

    def close(self) -> None:
        if not self.closed:
            self._over(ConnectionLost("closed here", clean=True))
            self.shut()

    def abort(self, error: CarrierError | None = None) -> None:
        if not self.closed:
            self._over(error or ConnectionLost("dropped here"))
        self.drop()

    def cut(self) -> None:
        """Break off its visit, if any, and close."""
        if self.visit is not None:
            self.visit.cut()
        self.close()

    def taken_by(self, pool: "PyPool") -> None:
        """From now on a pool is told what its events were told."""
        self.pool = pool
        self._events = None

    @property
    def usable(self) -> bool:
        """Whether an OPEN on it can arrive."""
        return not self.closed and self.transport is not None and not self.transport.is_closing()

    # What a visit asks of it; the first three are its stream's Partner.

    def carry_read(self, size: int) -> None:
        self.sent_bytes += size
        frame: Bytes = self.carrier.read_buffer.frame(size)
        self.write(self._after_late(frame) if self.late else frame)

    def carry_last(self, size: int) -> None:
        """As carry_read, and END behind it in the same write."""
        self.sent_bytes += size
        self._write(b"".join((self.carrier.read_buffer.frame(size), self.state.end())))
        self.settle()

    def carry(self, data: Bytes) -> None:
        size = len(data)
        self.sent_bytes += size
        if size <= _JOINED_WRITE or not self.tls:
            self._write(b"".join((data_header(size), data)))
        else:
            self._write(data_header(size))
            self._write(data)

    def begin(self, visit: LaneVisit, opening: Opening, first: list[Bytes]) -> None:
        """Opener: OPEN, and what the visitor has sent already, in one write."""
        self.visit = visit
        self.asked_at = self.carrier.loop.time()
        self._stall(False)
        self.sent_bytes = self.received_bytes = 0
        parts: list[Bytes] = [self.state.open(opening)]
        for data in first:
            self.sent_bytes += len(data)
            parts += [data_header(len(data)), data]
        self._write(b"".join(parts))

    def accept(self, sink: Callable[[Bytes], None], *, late: bool = False) -> None:
        """Acceptor: OPENED, and what the opener has sent already goes to `sink`. A `late` OPENED waits a moment for
        bytes that can leave with it, unless the opener will soon stand still for it."""
        self.opening = None
        opened = self.state.opened()
        if late and self._early_size <= MAX_KEPT // 4 and not self.closed:
            self.late = opened
            self.carrier.late.add(self, opened)
        else:
            self._write(opened)
        early, self.early, self._early_size = self.early, [], 0
        for data in early:
            self.received_bytes += len(data)
            sink(data)
        self.sink = sink if self.state.received is Ending.NONE else None

    def send_late(self, frame: bytes) -> None:
        """Its time is up, unless it has left."""
        if frame and frame is self.late:
            self.write(self._after_late(b""))

    def send_end(self) -> None:
        if self.state.sends and not self.closed:
            self._write(self.state.end())
            self.settle()

    def send_reset(self) -> None:
        """Give the visit up; what still arrives of it is dropped."""
        if self.closed or self.state.idle:
            return
        if self.state.sent is not Ending.RESET:
            self._write(self.state.reset())
        self.sink = None
        self.opening = None
        if self.state.awaits_answer:
            self.reset_at = self.carrier.loop.time()
            self.resume_source()
        self.settle()

    def leave(self) -> None:
        """The visit needs this lane no more; it is idle, or will be when its RESET is answered."""
        self.visit = None
        self.asked_at = None
        self.sink = None

    def settle(self) -> None:
        """An idle lane goes back to its pool."""
        if not self.state.idle or self.closed:
            return
        self.sink = None
        self.opening = None
        self.early, self._early_size = [], 0
        self.reset_at = None
        if not self._stalled:
            self.resume_source()
        if self.pool is not None:
            self.carrier.loop.call_soon(self._give_back, self.state.number)

    def _give_back(self, number: int) -> None:
        if self.pool is not None and not self.closed and self.state.idle and self.state.number == number:
            self.pool.lane_idle(self)

    # asyncio's protocol.

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self.carrier.read_buffer.room[:nbytes])

    def data_received(self, data: memoryview) -> None:
        """Bytes off the wire, valid during the call alone."""
        sink = self.sink
        if sink is not None and self._reader.whole_data(data):
            self.received_bytes += len(data) - HEADER_SIZE
            sink(data[HEADER_SIZE:])
            return
        self.quiet_since, self.pings = self.carrier.loop.time(), 0
        try:
            for frame_type, payload in self._reader.feed(data):
                if self.closed:
                    return
                if frame_type == _DATA:
                    sink = self.sink
                    if sink is not None:
                        self.received_bytes += len(payload)
                        sink(payload)
                    else:
                        self._data_without_sink(payload)
                else:
                    self._frame(frame_type, payload)
        except RemoteProtocolError as error:
            self.abort(ProtocolViolation(str(error)))

    def eof_received(self) -> bool:
        self.linger()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.detach()
        self._over(ConnectionLost(f"the connection was lost: {error}" if error else "the peer closed it"))

    def pause_writing(self) -> None:
        self.writes_paused = True
        if self.visit is not None:
            self.visit.lane_paused()
        elif self._events is not None:
            self._stall(True)

    def resume_writing(self) -> None:
        self.writes_paused = False
        self._stall(False)
        if self.visit is not None:
            self.visit.lane_resumed()

    def _stall(self, stalled: bool) -> None:
        """A peer that asks and does not read the answers is not read either."""
        if stalled is not self._stalled:
            self._stalled = stalled
            if stalled:
                self.pause_source()
            else:
                self.resume_source()

    def _write(self, raw: Bytes) -> None:
        if not self.closed:
            self.write(self._after_late(raw) if self.late else raw)

    def _after_late(self, frame: Bytes) -> bytes:
        late, self.late = self.late, b""
        return b"".join((late, frame))

    def _data_without_sink(self, payload: Bytes) -> None:
        take = self.state.takes
        if take is Take.ERROR:
            raise RemoteProtocolError(f"DATA out of place: {self.state!r}")
        if take is Take.DELIVER and self.opening is not None:
            self._early_size += len(payload)
            if self._early_size > MAX_KEPT:
                raise RemoteProtocolError(f"more than {MAX_KEPT} bytes of DATA before OPENED")
            self.early.append(bytes(payload))

    def _frame(self, frame_type: int, payload: Bytes) -> None:
        if frame_type in VISIT_FRAMES:
            self._visit_frame(frame_type, payload)
        elif frame_type == FrameType.PING:
            if not self.writes_paused:  # what waits to be sent is sign enough, and a flood of PINGs costs nothing
                self._write(encode_frame(FrameType.PONG, bytes(payload)))
        elif frame_type == FrameType.PONG:
            pass  # having been heard is all
        elif frame_type == FrameType.RETIRE and self.state.side is Side.OPENER:
            self.retiring = True
            if self.pool is not None and self.state.idle:
                self.pool.lane_retires(self)
        elif frame_type == FrameType.FAIL:
            self._over(PeerFailed(bytes(payload)))
            self.shut()
        elif self._events is not None and frame_type != FrameType.RETIRE:
            self.carrier.tell(self.abort, self._events.frame_received, self, frame_type, bytes(payload))
        else:
            raise RemoteProtocolError(f"frame 0x{frame_type:02x} out of place")

    def _visit_frame(self, frame_type: int, payload: Bytes) -> None:
        in_order = self.state.received is Ending.END
        event = self.state.receive(frame_type, payload)
        visit = self.visit
        if isinstance(event, VisitOpening):
            self._opening(event.opening)
        elif isinstance(event, VisitOpened):
            self.asked_at = None
            if visit is not None:
                visit.lane_opened()
        elif isinstance(event, VisitRefused):
            self.visit = None
            if visit is not None:
                visit.lane_refused(event.reason, event.message)
        elif isinstance(event, VisitEnded):
            self.sink = None
            if visit is not None:
                visit.lane_ended()
        elif isinstance(event, VisitReset):
            self.sink = None
            self.opening = None
            if event.answer:
                self._write(event.answer)
            if visit is not None:
                self.visit = None
                visit.lane_reset(in_order)
        self.settle()

    def _opening(self, opening: Opening) -> None:
        self.opening = opening
        self.sent_bytes = self.received_bytes = 0
        if self.pool is not None and self.pool.serves:
            self.pool.lane_opening(self, opening)
        elif self._events is not None:
            self.carrier.tell(self.abort, self._tell_opening, self._events, opening)
        else:
            self.refuse(RefusalReason.NOT_HERE)

    def _tell_opening(self, events: LaneEvents, opening: Opening) -> None:
        """Later than it came: one that the opener has given up meanwhile must not be joined to the next."""
        if self.opening is opening:
            events.opening_received(self, opening)

    def _over(self, error: CarrierError) -> None:
        if self.closed:
            return
        self.closed = True
        self.late = b""
        self.sink = None
        self.opening = None
        self.early = []
        self.carrier.lane_gone(self)
        visit, self.visit = self.visit, None
        if visit is not None:
            visit.lane_lost(error)
        if self.pool is not None:
            self.pool.lane_gone(self, error)
        if self._events is not None:
            self.carrier.tell(self.abort, self._events.lane_closed, self, error)
