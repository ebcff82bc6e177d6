"""What a lane tells of the visit on it: to visit.py, or to relayed.py where the visit goes on over a second lane."""

from typing import Protocol

from portway_proto.wire.frames import RefusalReason

from portway_carrier.errors import CarrierError


class LaneVisit(Protocol):
    """Who is told what happens to the visit on a lane."""

    def lane_opened(self) -> None: ...

    def lane_refused(self, reason: RefusalReason, message: str) -> None: ...

    def lane_unanswered(self) -> None: ...

    def lane_ended(self) -> None: ...

    def lane_reset(self, in_order: bool) -> None:
        """The far side gave up; the answer was sent. `in_order`: after its END, all that it sent has come."""
        ...

    def lane_lost(self, error: CarrierError) -> None: ...

    def lane_paused(self) -> None:
        """The lane takes no more bytes for now."""
        ...

    def lane_resumed(self) -> None: ...

    def cut(self) -> None: ...
