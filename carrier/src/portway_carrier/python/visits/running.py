"""A visit that runs: a stream and a lane, each the other's sink, and what a turning point of one does to the other.

Here: what both sides of a lane have in common. Not here: how a visit begins (joined.py for the opener, served.py for
the acceptor).
"""

from collections.abc import Callable

from portway_proto.wire.frames import Opening, RefusalReason
from portway_proto.wire.lane import Ending

from portway_carrier.errors import CarrierError, ConnectionLost
from portway_carrier.python.core.core import Core
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.python.visits.lane_stream import LaneStream
from portway_carrier.values import Outcome


class RunningVisit:
    """The stream's StreamOwner and the lane's LaneVisit. A subclass implements `ended`."""

    __slots__ = ("_moved", "_opening", "core", "lane", "over", "stream")

    def __init__(self, core: Core, opening: Opening) -> None:
        self.core = core
        self.stream: PyStream | LaneStream | None = None
        self.lane: PyLane | None = None
        self.over = False
        self._opening = opening
        self._moved: tuple[int, int] | None = None  # bytes to and from the lane, once the visit has left it

    @property
    def opening(self) -> Opening:
        return self._opening

    @property
    def to_lane(self) -> int:
        return self._counts()[0]

    @property
    def from_lane(self) -> int:
        return self._counts()[1]

    @property
    def bytes_in(self) -> int:
        """From the visitor, who is on the opener's side of the lane."""
        return self.to_lane

    @property
    def bytes_out(self) -> int:
        return self.from_lane

    @property
    def buffered(self) -> int:
        held = self.stream.unsent() if self.stream is not None else 0
        return held + self.lane.unsent() if self.lane is not None else held

    def _counts(self) -> tuple[int, int]:
        if self._moved is not None:
            return self._moved
        return (self.lane.sent_bytes, self.lane.received_bytes) if self.lane is not None else (0, 0)

    def ended(self, outcome: Outcome, error: CarrierError | None = None) -> None:
        """Called once, when the visit is over and has left its stream and its lane."""
        raise NotImplementedError

    def run(self) -> None:
        """The visit was taken: join stream and lane, and pause each where the other is full."""
        stream, lane = self.stream, self.lane
        assert stream is not None
        assert lane is not None
        stream.partner = lane
        if stream.writes_paused:
            lane.pause_source()
        if lane.writes_paused:
            stream.pause_source()
        else:
            stream.resume_source()

    # StreamOwner.

    def stream_ready(self) -> None: ...

    def stream_ended(self) -> None:
        if self.lane is not None and self.stream is not None:
            self.end_lane(self.lane, self.lane.send_end)

    def end_lane(self, lane: PyLane, send_end: Callable[[], None]) -> None:
        """The stream's peer has ended its direction: pass the end on by `send_end`."""
        both_ended = lane.state.received is not Ending.NONE
        send_end()
        if both_ended:
            self._close_stream()
            self._finish(Outcome.DONE)

    def stream_lost(self, error: CarrierError) -> None:
        lane, stream = self.lane, self.stream
        self.stream = None
        if lane is None or self.over:
            return
        in_order = stream is not None and stream.ended and isinstance(error, ConnectionLost) and error.clean
        self._leave_lane(lane)
        lane.send_reset()
        self._finish(Outcome.DONE if in_order else Outcome.RESET, error)

    # LaneVisit.

    def lane_opened(self) -> None: ...

    def lane_refused(self, reason: RefusalReason, message: str) -> None: ...

    def lane_unanswered(self) -> None: ...

    def lane_ended(self) -> None:
        lane, stream = self.lane, self.stream
        if lane is None or stream is None:
            return
        stream.send_end()
        if not stream.half_closes:
            lane.send_end()
        if lane.state.idle:
            self._close_stream()
            self._finish(Outcome.DONE)

    def lane_reset(self, in_order: bool) -> None:
        if in_order:  # the peer reads no more, but what it sent is delivered
            self._close_stream()
        else:
            self._break_stream()
        self._finish(Outcome.RESET)

    def lane_lost(self, error: CarrierError) -> None:
        self._break_stream()
        self._finish(Outcome.LANE_LOST, error)

    def lane_paused(self) -> None:
        if self.stream is not None:
            self.stream.pause_source()

    def lane_resumed(self) -> None:
        if self.stream is not None:
            self.stream.resume_source()

    def close(self) -> None:
        """End both directions now: the stream is closed in order, the lane gets END and nothing more."""
        lane, stream = self.lane, self.stream
        if self.over:
            return
        if lane is None or stream is None or stream.partner is not lane:
            self.cut()
            return
        lane.send_end()
        stream.send_end()
        self._close_stream()
        if not lane.state.idle:
            self._leave_lane(lane)
            lane.send_reset()
        self._finish(Outcome.DONE)

    def cut(self) -> None:
        """End it now: abort the stream, reset the lane."""
        if self.over:
            return
        lane = self.lane
        self._abort_stream()
        if lane is not None:
            self._leave_lane(lane)
            lane.send_reset()
        self._finish(Outcome.CUT)

    def _leave_lane(self, lane: PyLane) -> None:
        if self._moved is None:
            self._moved = (lane.sent_bytes, lane.received_bytes)
        self.lane = None
        lane.leave()

    def _abort_stream(self) -> None:
        stream = self._leave_stream()
        if stream is not None:
            stream.abort()

    def _break_stream(self) -> None:
        """What the peer sent before it gave up is delivered."""
        stream = self._leave_stream()
        if stream is not None:
            stream.break_off()

    def _close_stream(self) -> None:
        stream = self._leave_stream()
        if stream is not None:
            stream.close()

    def _leave_stream(self) -> PyStream | LaneStream | None:
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.owner = None
            stream.partner = None
        return stream

    def _finish(self, outcome: Outcome, error: CarrierError | None = None) -> None:
        if self.over:
            return
        self.over = True
        if self.lane is not None:
            self._leave_lane(self.lane)
        self.ended(outcome, error)
