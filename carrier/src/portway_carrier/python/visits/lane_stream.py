"""A visitor that came in over a lane: the lane of an unanswered opening, with the interface of a stream, so that it
can be joined to a lane of another pool.
"""

from portway_proto.wire.frames import Bytes, RefusalReason
from portway_proto.wire.lane import Ending
from portway_runtime.endpoints import Endpoint

from portway_carrier.errors import CarrierError, ConnectionLost
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.transport.stream import Partner, StreamOwner


class LaneStream:
    """To the visit a stream like PyStream; to the acceptor's lane its LaneVisit."""

    half_closes = True

    def __init__(self, lane: PyLane) -> None:
        self.lane = lane
        self.transport = lane.transport
        self.owner: StreamOwner | None = None
        self.partner: Partner | None = None
        self.lost: CarrierError | None = None
        if lane.opening is None or lane.closed:
            self.lost = ConnectionLost("the opener gave the visit up")
            return
        lane.visit = self
        lane.sink = self._received

    @property
    def peer(self) -> Endpoint:
        return self.lane.peer

    @property
    def ended(self) -> bool:
        return self.lane.state.received is Ending.END

    @property
    def writes_paused(self) -> bool:
        return self.lane.writes_paused

    def take_held(self) -> list[Bytes]:
        held, self.lane.early_data = self.lane.early_data, []
        return list(held)

    def hand_back(self, kept: list[Bytes]) -> PyLane | None:
        """Leave the visit, which was not taken further on. The lane, with its opening unanswered and `kept` held
        again; None when the opener has given it up."""
        self.owner = None
        self.partner = None
        if self.lost is not None:
            return None
        self.lane.visit = None
        self.lane.sink = None
        self.lane.early_data = [*kept, *self.lane.early_data]
        self.lane.resume_source()
        return self.lane

    def accepted(self) -> None:
        """The visit was taken further on: answer the opening."""
        self.lane.accept(self._received)

    def unsent(self) -> int:
        return self.lane.unsent()

    def write(self, data: Bytes) -> None:
        self.lane.carry(data)

    def send_end(self) -> None:
        self.lane.send_end()

    def close(self) -> None:
        """What was written is delivered, with its end. An opener that has not ended is told that nobody reads it."""
        self.lane.leave()
        self.lane.send_reset()

    def break_off(self) -> None:
        self.abort()

    def abort(self) -> None:
        """RESET follows what was written."""
        self.lane.leave()
        self.lane.send_reset()

    def pause_source(self) -> None:
        self.lane.pause_source()

    def resume_source(self) -> None:
        self.lane.resume_source()

    def _received(self, data: Bytes) -> None:
        if self.partner is not None:
            self.partner.carry(data)
        else:
            self.lane.early_data.append(bytes(data))

    # LaneVisit. The first three concern openers only.

    def lane_opened(self) -> None: ...

    def lane_refused(self, reason: RefusalReason, message: str) -> None: ...

    def lane_unanswered(self) -> None: ...

    def lane_ended(self) -> None:
        if self.owner is not None:
            self.owner.stream_ended()

    def lane_reset(self, in_order: bool) -> None:
        self.lane_lost(ConnectionLost("the opener reset the visit"))

    def lane_lost(self, error: CarrierError) -> None:
        self.lost = error
        if self.owner is not None:
            self.owner.stream_lost(error)

    def lane_paused(self) -> None:
        if self.partner is not None:
            self.partner.pause_source()

    def lane_resumed(self) -> None:
        if self.partner is not None:
            self.partner.resume_source()

    def cut(self) -> None:
        if self.owner is not None:
            self.owner.cut()
