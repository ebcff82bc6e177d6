"""A lane: the asyncio protocol of a framed connection. States are wire's; what a visit means is its visit's.

DATA goes from here to `sink`, a plain call, without passing through anything else.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from portway_proto.carry.contract import Address, LaneEvents
from portway_proto.carry.errors import CarrierError, ConnectionLost, PeerFailed, ProtocolViolation
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
from portway_proto.wire.limits import HEADER_SIZE, MAX_DATA, MAX_KEPT

if TYPE_CHECKING:
    from portway_proto.carry.python.carrier import PythonCarrier
    from portway_proto.carry.python.pool import PyPool

logger = logging.getLogger(__name__)

_DATA: Final = int(FrameType.DATA)
# Below this, one copy is cheaper than a TLS record of its own for the header.
_JOINED_WRITE: Final = 64 * 1024


class LaneVisit(Protocol):
    """Who is told what happens to the visit on a lane."""

    def lane_opened(self) -> None: ...

    def lane_refused(self, reason: RefusalReason, message: str) -> None: ...

    def lane_ended(self) -> None:
        """The far side sends no more."""
        ...

    def lane_reset(self) -> None:
        """The far side gave up; the answer was sent."""
        ...

    def lane_lost(self, error: CarrierError) -> None: ...

    def lane_paused(self) -> None:
        """The lane takes no more bytes for now."""
        ...

    def lane_resumed(self) -> None: ...


class PyLane(asyncio.Protocol):
    """Both the contract's Lane and the asyncio protocol of its connection."""

    def __init__(
        self, carrier: "PythonCarrier", transport: asyncio.Transport, peer: Address, side: Side, events: LaneEvents
    ) -> None:
        self.carrier = carrier
        self.state = LaneState(side)
        self.pool: PyPool | None = None
        self.visit: LaneVisit | None = None
        self.sink: Callable[[Bytes], None] | None = None
        self.opening: Opening | None = None  # acceptor: of the visit that is neither taken nor refused
        self.early: list[Bytes] = []  # DATA that came before the visit was taken
        self.retiring = False
        self.sent_bytes = 0
        self.received_bytes = 0
        self.heard = True  # since the last sweep
        self.quiet_since = carrier.loop.time()
        self.pings = 0
        self.reset_at: float | None = None
        self.writes_paused = False
        self.closed = False
        self._transport = transport
        self._peer = peer
        self._events: LaneEvents | None = events
        self._reader = FrameReader()
        self._early_size = 0
        self._reads_paused = False
        self._error: CarrierError | None = None

    @property
    def peer(self) -> Address:
        return self._peer

    @property
    def transport(self) -> asyncio.Transport:
        return self._transport

    @property
    def reads_paused(self) -> bool:
        return self._reads_paused

    # The contract.

    def send(self, frame_type: int, payload: bytes = b"") -> None:
        frame = encode_frame(frame_type, payload)
        if not self.closed:
            self._transport.write(frame)

    def refuse(self, reason: RefusalReason, message: str = "") -> None:
        if self.opening is None or self.closed:
            return
        self.opening = None
        self._transport.write(self.state.refuse(reason, message))
        self.settle()

    def fail(self, payload: bytes) -> None:
        self.send(FrameType.FAIL, payload)
        self.close()

    def close(self) -> None:
        if not self.closed:
            self._gone(ConnectionLost("closed here", clean=True))
            self._close_transport()

    def abort(self, error: CarrierError | None = None) -> None:
        if not self.closed:
            self._gone(error or ConnectionLost("dropped here"))
            self._transport.abort()

    def taken_by(self, pool: "PyPool") -> None:
        """From now on a pool is told what its events were told."""
        self.pool = pool
        self._events = None

    # What a visit asks of it; the first three are its stream's Partner.

    def carry(self, data: Bytes) -> None:
        size = len(data)
        self.sent_bytes += size
        if size <= _JOINED_WRITE:
            self._transport.write(data_header(size) + data)
            return
        view = memoryview(data)
        for start in range(0, size, MAX_DATA):
            piece = view[start : start + MAX_DATA]
            self._transport.write(data_header(len(piece)))
            self._transport.write(piece)

    def pause_source(self) -> None:
        if not self._reads_paused:
            self._reads_paused = True
            self._transport.pause_reading()

    def resume_source(self) -> None:
        if self._reads_paused:
            self._reads_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def begin(self, visit: LaneVisit, opening: Opening, first: list[Bytes]) -> None:
        """Opener: OPEN, and what the visitor has sent already, in one write."""
        self.visit = visit
        self.sent_bytes = self.received_bytes = 0
        parts: list[Bytes] = [self.state.open(opening)]
        for data in first:
            self.sent_bytes += len(data)
            parts += [data_header(len(data)), data]
        self._transport.write(b"".join(parts))

    def accept(self, sink: Callable[[Bytes], None]) -> None:
        """Acceptor: OPENED, and what the opener has sent already goes to `sink`."""
        self.opening = None
        self._transport.write(self.state.opened())
        early, self.early, self._early_size = self.early, [], 0
        for data in early:
            sink(data)
        self.sink = sink if self.state.received is Ending.NONE else None

    def send_end(self) -> None:
        if self.state.sends and not self.closed:
            self._transport.write(self.state.end())
            self.settle()

    def send_reset(self) -> None:
        """Give the visit up; what still arrives of it is dropped."""
        if self.closed or self.state.idle:
            return
        if self.state.sent is not Ending.RESET:
            self._transport.write(self.state.reset())
        self.sink = None
        self.opening = None
        if self.state.awaits_answer:
            self.reset_at = self.carrier.loop.time()
            self.resume_source()
        self.settle()

    def leave(self) -> None:
        """The visit needs this lane no more; it is idle, or will be when its RESET is answered."""
        self.visit = None
        self.sink = None

    def settle(self) -> None:
        """An idle lane goes back to its pool."""
        if not self.state.idle or self.closed:
            return
        self.sink = None
        self.opening = None
        self.early, self._early_size = [], 0
        self.reset_at = None
        self.resume_source()
        if self.pool is not None:
            self.carrier.loop.call_soon(self._give_back, self.state.number)

    def _give_back(self, number: int) -> None:
        if self.pool is not None and not self.closed and self.state.idle and self.state.number == number:
            self.pool.lane_idle(self)

    # asyncio's protocol.

    def data_received(self, data: bytes) -> None:
        self.heard = True
        sink = self.sink
        if sink is not None and self._reader.whole_data(data):
            self.received_bytes += len(data) - HEADER_SIZE
            sink(memoryview(data)[HEADER_SIZE:])
            return
        try:
            for frame_type, payload in self._reader.feed(data):
                if frame_type == _DATA:
                    sink = self.sink
                    if sink is not None:
                        self.received_bytes += len(payload)
                        sink(payload)
                    else:
                        self._data_without_sink(payload)
                else:
                    self._frame(frame_type, payload)
                if self.closed:
                    return
        except RemoteProtocolError as error:
            self.abort(ProtocolViolation(str(error)))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.carrier.closing.discard(self)
        self._gone(ConnectionLost(f"the connection was lost: {error}" if error else "the peer closed it"))

    def pause_writing(self) -> None:
        self.writes_paused = True
        if self.visit is not None:
            self.visit.lane_paused()

    def resume_writing(self) -> None:
        self.writes_paused = False
        if self.visit is not None:
            self.visit.lane_resumed()

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
            self._transport.write(encode_frame(FrameType.PONG, bytes(payload)))
        elif frame_type == FrameType.PONG:
            pass  # having been heard is all
        elif frame_type == FrameType.RETIRE:
            self.retiring = True
            if self.pool is not None and self.state.idle:
                self.pool.lane_retires(self)
        elif frame_type == FrameType.FAIL:
            self._gone(PeerFailed(bytes(payload)))
            self._close_transport()
        elif self._events is not None:
            self._later(self._events.frame_received, self, frame_type, bytes(payload))
        else:
            raise RemoteProtocolError(f"frame 0x{frame_type:02x} on a data lane")

    def _visit_frame(self, frame_type: int, payload: Bytes) -> None:
        event = self.state.receive(frame_type, payload)
        visit = self.visit
        if isinstance(event, VisitOpening):
            self._opening(event.opening)
        elif isinstance(event, VisitOpened):
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
                self._transport.write(event.answer)
            if visit is not None:
                self.visit = None
                visit.lane_reset()
        self.settle()

    def _opening(self, opening: Opening) -> None:
        self.opening = opening
        self.sent_bytes = self.received_bytes = 0
        if self.pool is not None and self.pool.serves:
            self.pool.lane_opening(self, opening)
        elif self._events is not None:
            self._later(self._events.opening_received, self, opening)
        else:
            self.refuse(RefusalReason.NOT_HERE)

    def _gone(self, error: CarrierError) -> None:
        if self.closed:
            return
        self.closed = True
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
            self._later(self._events.lane_closed, self, error)

    def _close_transport(self) -> None:
        """TLS waits for the peer's goodbye; until then the carrier must be able to drop it."""
        self.carrier.closing.add(self)
        if not self._transport.is_closing():  # asyncio's of Python 3.11 cannot be aborted after a second close
            self._transport.close()

    def _later(self, callback: Callable[..., None], *arguments: object) -> None:
        self.carrier.loop.call_soon(self._call, callback, arguments)

    def _call(self, callback: Callable[..., None], arguments: tuple[object, ...]) -> None:
        try:
            callback(*arguments)
        except Exception:
            logger.exception("a lane's owner failed")
            self.abort()
