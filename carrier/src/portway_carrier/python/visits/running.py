"""A visit that runs: a stream and a lane joined, each the other's sink, and what each turning point of one does to
the other. How a visit begins is in joined.py (the opener's side) and served.py (the acceptor's).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from portway_proto.wire.frames import Opening, RefusalReason
from portway_proto.wire.lane import Ending

from portway_carrier.contract import Outcome
from portway_carrier.errors import CarrierError, ConnectionLost
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.transport.stream import PyStream

if TYPE_CHECKING:
    from portway_carrier.python.carrier import PythonCarrier
    from portway_carrier.python.visits.lane_stream import LaneStream


class RunningVisit:
    """What both sides have in common. Subclasses say what happens when it is over."""

    __slots__ = ("_moved", "_opening", "carrier", "lane", "over", "stream")

    def __init__(self, carrier: "PythonCarrier", opening: Opening) -> None:
        self.carrier = carrier
        self.stream: PyStream | LaneStream | None = None
        self.lane: PyLane | None = None
        self.over = False
        self._opening = opening
        self._moved: tuple[int, int] | None = None  # to and from the lane, once the lane has been left

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
        """From the visitor, who is at the opener's side of the lane."""
        return self.to_lane

    @property
    def bytes_out(self) -> int:
        return self.from_lane

    def _counts(self) -> tuple[int, int]:
        if self._moved is not None:
            return self._moved
        return (self.lane.sent_bytes, self.lane.received_bytes) if self.lane is not None else (0, 0)

    def ended(self, outcome: Outcome, error: CarrierError | None = None) -> None:
        """It is over: called once. Stream and lane have been dealt with."""

    def run(self) -> None:
        """OPENED: join the two, each at the other's pace."""
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
        """The stream sends no more."""
        done = lane.state.received is not Ending.NONE
        send_end()
        if done:
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
        if in_order:  # it wants no answer, but what it sent is to arrive
            self._close_stream()
        else:
            self._abort_stream()
        self._finish(Outcome.RESET)

    def lane_lost(self, error: CarrierError) -> None:
        self._abort_stream()
        self._finish(Outcome.LANE_LOST, error)

    def lane_paused(self) -> None:
        if self.stream is not None:
            self.stream.pause_source()

    def lane_resumed(self) -> None:
        if self.stream is not None:
            self.stream.resume_source()

    def cut(self) -> None:
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
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.owner = None
            stream.partner = None
            stream.abort()

    def _close_stream(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.owner = None
            stream.partner = None
            stream.close()

    def _finish(self, outcome: Outcome, error: CarrierError | None = None) -> None:
        if self.over:
            return
        self.over = True
        if self.lane is not None:
            self._leave_lane(self.lane)
        self.ended(outcome, error)
