"""A lane: a framed connection that carries one visit at a time, on either side.

The states of a visit are `portway_proto.wire.lane`'s; what a turning point means is decided by the visit on the lane
(LaneVisit); an idle lane is its pool's (LanePool). What is received outside visits is counted by ControlIntake.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from portway_proto.wire.errors import RemoteProtocolError
from portway_proto.wire.frames import Bytes, FrameType, Opening, RefusalReason, data_header, encode_frame
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
from portway_proto.wire.limits import MAX_KEPT
from portway_runtime.endpoints import Endpoint

from portway_carrier.contract import FrameBudget, LaneEvents
from portway_carrier.errors import CarrierError, ConnectionLost, PeerFailed, ProtocolViolation
from portway_carrier.python.core.core import Core
from portway_carrier.python.lanes.control_intake import LIFE, ControlIntake
from portway_carrier.python.lanes.framed_connection import FramedConnection
from portway_carrier.python.lanes.lane_parties import LanePool, LaneVisit
from portway_carrier.python.transport import kernel

_PING: Final = int(FrameType.PING)
_PONG: Final = int(FrameType.PONG)
_RETIRE: Final = int(FrameType.RETIRE)
_FAIL: Final = int(FrameType.FAIL)


class PyLane(FramedConnection):
    """Both the contract's Lane and the asyncio protocol of its connection."""

    __slots__ = (
        "_early_size",
        "_events",
        "_held_back",
        "_intake",
        "_stalled",
        "_unread",
        "early_data",
        "open_sent_at",
        "opening",
        "pool",
        "reset_sent_at",
        "retiring",
        "state",
        "visit",
    )

    def __init__(
        self,
        core: Core,
        transport: asyncio.Transport,
        peer: Endpoint,
        side: Side,
        events: LaneEvents,
        *,
        tls: bool,
        greeted: bool,
    ) -> None:
        super().__init__(core, transport, peer, tls=tls)
        self.state = LaneState(side)
        self.pool: LanePool[PyLane] | None = None
        self.visit: LaneVisit | None = None
        self.opening: Opening | None = None  # acceptor: of a visit that is neither taken nor refused
        self.early_data: list[Bytes] = []  # acceptor: DATA received before the visit was taken
        self.retiring = False
        self.reset_sent_at: float | None = None  # a RESET that is not answered
        self.open_sent_at: float | None = None  # opener: an OPEN that is not answered
        self._events: LaneEvents | None = events
        self._early_size = 0
        self._stalled = False  # not read, because the peer does not read
        self._intake = ControlIntake(greeted=greeted)
        self._unread: asyncio.TimerHandle | None = None  # while it is not read, because its budget is used up
        self._held_back = False  # not read, because its visit takes no more, or because it is stalled
        core.lane_opened(self)

    # The contract.

    def send(self, frame_type: int, payload: bytes = b"") -> None:
        frame = encode_frame(frame_type, payload)
        if self._events is None or self.visit is not None:
            self.write_frames(frame)
        else:
            self.gather(frame)

    def charge_to(self, budget: FrameBudget) -> None:
        self._intake.budget = budget

    def refuse(self, reason: RefusalReason, message: str = "") -> None:
        if self.opening is None or self.closed:
            return
        self.opening = None
        self.write_frames(self.state.refuse(reason, message))
        self.settle()

    def fail(self, payload: bytes) -> None:
        self.send(FrameType.FAIL, payload)
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.send_gathered()
            self.ended(ConnectionLost("closed here", clean=True))
            self.shut()

    def abort(self, error: CarrierError | None = None) -> None:
        if not self.closed:
            self.ended(error or ConnectionLost("dropped here"))
        self.drop()

    # Calls by its pool and by liveness.

    def cut(self) -> None:
        """Reset its visit, if any, and close."""
        if self.visit is not None:
            self.visit.cut()
        self.close()

    def assign(self, pool: "LanePool[PyLane]") -> None:
        """Notify `pool` from now on, in place of the events."""
        self.send_gathered()
        self.pool = pool
        self._events = None

    @property
    def usable(self) -> bool:
        """Whether an OPEN on it can arrive."""
        return not self.closed and self.transport is not None and not self.transport.is_closing()

    def open_unanswered(self) -> None:
        if self.visit is not None:
            self.visit.lane_unanswered()

    # Calls by its visit, beside those of FramedConnection.

    def carry_last(self, size: int) -> None:
        """As carry_read, with END in the same write."""
        self.sent_bytes += size
        self.write_frames(b"".join((self.core.read_buffer.frame(size), self.state.end())))
        self.settle()

    def begin(self, visit: LaneVisit, opening: Opening, first: list[Bytes]) -> None:
        """Opener: send OPEN, and the bytes that the visitor has already sent, in one write."""
        self.visit = visit
        self.open_sent_at = self.core.loop.time()
        self._stall(False)
        self.sent_bytes = self.received_bytes = 0
        parts: list[Bytes] = [self.state.open(opening)]
        for data in first:
            self.sent_bytes += len(data)
            parts += [data_header(len(data)), data]
        self.write_frames(b"".join(parts))

    def accept(self, sink: Callable[[Bytes], None], defer: Callable[["PyLane", bytes], None] | None = None) -> None:
        """Acceptor: send OPENED, and pass DATA to `sink`, beginning with what was received before.

        With `defer`, OPENED waits for bytes to leave with and `defer` is called with it to bound the wait, unless the
        opener is close to the limit of what it may send before OPENED."""
        self.opening = None
        opened = self.state.opened()
        if defer is not None and self._early_size <= MAX_KEPT // 4 and not self.closed:
            self.deferred = opened
            defer(self, opened)
        else:
            self.write_frames(opened)
        early, self.early_data, self._early_size = self.early_data, [], 0
        for data in early:
            self.received_bytes += len(data)
            sink(data)
        self.sink = sink if self.state.received is Ending.NONE else None

    def send_end(self) -> None:
        if self.state.sends and not self.closed:
            self.write_frames(self.state.end())
            self.settle()

    def send_reset(self) -> None:
        """Give the visit up; what is still received of it is dropped."""
        if self.closed or self.state.idle:
            return
        if self.state.sent is not Ending.RESET:
            self.write_frames(self.state.reset())
        self.sink = None
        self.opening = None
        if self.state.awaits_answer:
            self.reset_sent_at = self.core.loop.time()
            self.resume_source()
        self.settle()

    def leave(self) -> None:
        """Detach from the visit. The lane is idle, or will be when its RESET is answered."""
        self.visit = None
        self.open_sent_at = None
        self.sink = None

    def settle(self) -> None:
        """If the lane is idle now, return it to its pool."""
        if not self.state.idle or self.closed:
            return
        self.sink = None
        self.opening = None
        self.early_data, self._early_size = [], 0
        self.reset_sent_at = None
        if not self._stalled:
            self.resume_source()
        if self.pool is not None:
            self.core.loop.call_soon(self._return_to_pool, self.state.number)

    def _return_to_pool(self, number: int) -> None:
        if self.pool is not None and not self.closed and self.state.idle and self.state.number == number:
            self.pool.lane_idle(self)

    # asyncio's protocol, beside FramedConnection's part.

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
        """Do not read requests from a peer that does not read the answers."""
        if stalled is not self._stalled:
            self._stalled = stalled
            if stalled:
                self.pause_source()
            else:
                self.resume_source()

    def pause_source(self) -> None:
        self._held_back = True
        super().pause_source()

    def resume_source(self) -> None:
        self._held_back = False
        if self._unread is None:
            super().resume_source()

    def _leave_unread(self, seconds: float) -> None:
        if self.transport is not None and self._intake.budget is not None:
            # Otherwise what has piled up by then is read in one turn.
            kernel.receive_little(self.transport, self._intake.budget.unread)
        idle = self.state.idle and not self.writes_paused
        if idle and self._intake.is_life_due(self.core.loop.time(), self.core.limits.ping_interval):
            self.write_frames(LIFE)
        if self._unread is None:
            super().pause_source()
        else:
            self._unread.cancel()
        self._unread = self.core.loop.call_later(seconds, self._read_again)

    def _read_again(self) -> None:
        self._unread = None
        if not self._held_back:
            super().resume_source()

    # Frames received.

    def protocol_violated(self, error: RemoteProtocolError) -> None:
        self.abort(ProtocolViolation(str(error)))

    def data_without_sink(self, payload: Bytes) -> None:
        take = self.state.takes
        if take is Take.ERROR:
            raise RemoteProtocolError(f"DATA out of place: {self.state!r}")
        if take is Take.DELIVER and self.opening is not None:
            self._early_size += len(payload)
            if self._early_size > MAX_KEPT:
                raise RemoteProtocolError(f"more than {MAX_KEPT} bytes of DATA before OPENED")
            self.early_data.append(bytes(payload))

    def frame_received(self, frame_type: int, payload: Bytes) -> bool:
        if frame_type in VISIT_FRAMES:
            return self._visit_frame(frame_type, payload)
        self.control_frames += 1
        self._control_frame(frame_type, payload)
        return False

    def control_received(self, size: int) -> None:
        """Answer the PINGs of one read, by one PONG, and charge all of it that belongs to no visit."""
        frames, self.control_frames = self.control_frames, 0
        ping = self._intake.take_ping()
        # Bytes that wait to be written show life as well, and PINGs must not fill the buffer.
        if ping is not None and not self.writes_paused:
            self.write_frames(encode_frame(FrameType.PONG, ping))
        if self.closed:
            return
        seconds = self._intake.charge(frames, size, self.core.limits.ping_interval)
        if seconds > 0:
            self._leave_unread(seconds)

    def _control_frame(self, frame_type: int, payload: Bytes) -> None:
        if frame_type == _PING:
            self._intake.pinged(bytes(payload))
        elif frame_type == _PONG:
            pass  # that bytes were received is all that matters
        elif frame_type == _RETIRE and self.state.side is Side.OPENER:
            self.retiring = True
            if self.pool is not None and self.state.idle:
                self.pool.lane_retires(self)
        elif frame_type == _FAIL:
            self.ended(PeerFailed(bytes(payload)))
            self.shut()
        elif self._events is not None and frame_type != _RETIRE:
            self._intake.greeted = True
            self.core.notify(self.abort, self._events.frame_received, self, frame_type, bytes(payload))
        else:
            raise RemoteProtocolError(f"frame 0x{frame_type:02x} out of place")

    def _visit_frame(self, frame_type: int, payload: Bytes) -> bool:
        """Whether the frame belongs to the current visit."""
        in_order = self.state.received is Ending.END
        event = self.state.receive(frame_type, payload)
        visit = self.visit
        if isinstance(event, VisitOpening):
            self._opening(event.opening)
        elif isinstance(event, VisitOpened):
            self.open_sent_at = None
            if visit is not None:
                visit.lane_opened()
        elif isinstance(event, VisitEnded):
            self.sink = None
            if visit is not None:
                visit.lane_ended()
        elif isinstance(event, VisitReset):
            self.sink = None
            self.opening = None
            if event.answer:
                self.write_frames(event.answer)
            if visit is not None:
                self.visit = None
                visit.lane_reset(in_order)
        elif isinstance(event, VisitRefused):
            self.visit = None
            if visit is not None:
                visit.lane_refused(event.reason, event.message)
        self.settle()
        return event is not None

    def _opening(self, opening: Opening) -> None:
        self.opening = opening
        self.sent_bytes = self.received_bytes = 0
        if self.pool is not None and self.pool.serves:
            self.pool.lane_opening(self, opening)
        elif self._events is not None:
            self.core.notify(self.abort, self._notify_opening, self._events, opening)
        else:
            self.refuse(RefusalReason.NOT_HERE)

    def _notify_opening(self, events: LaneEvents, opening: Opening) -> None:
        """Runs after the frame was handled: skip an opening that the opener has given up meanwhile, lest the caller
        joins the next one in its place."""
        if self.opening is opening:
            events.opening_received(self, opening)

    def ended(self, error: CarrierError) -> None:
        """Report its end to everyone concerned. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self.deferred = b""
        self.sink = None
        self.opening = None
        self.early_data = []
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        self.core.lane_closed(self)
        visit, self.visit = self.visit, None
        if visit is not None:
            visit.lane_lost(error)
        if self.pool is not None:
            self.pool.lane_closed(self, error)
        if self._events is not None:
            self.core.notify(self.abort, self._events.lane_closed, self, error)
