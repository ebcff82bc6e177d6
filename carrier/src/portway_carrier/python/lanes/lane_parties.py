"""Whom a lane notifies: the visit on it, and the pool that it belongs to. Layers above implement both."""

from typing import Protocol, TypeVar

from portway_proto.wire.frames import Opening, RefusalReason

from portway_carrier.errors import CarrierError

L = TypeVar("L", contravariant=True)


class LaneVisit(Protocol):
    """What a lane notifies of the visit on it."""

    def lane_opened(self) -> None:
        """Opener: OPENED was received."""
        ...

    def lane_refused(self, reason: RefusalReason, message: str) -> None:
        """Opener: REFUSED was received; the lane has left the visit."""
        ...

    def lane_unanswered(self) -> None:
        """Opener: OPEN was not answered within Limits.open_answer."""
        ...

    def lane_ended(self) -> None:
        """The peer will send no more DATA."""
        ...

    def lane_reset(self, in_order: bool) -> None:
        """The peer gave up, the answer was sent, and the lane has left the visit. `in_order`: after its END, so that
        all of what it sent has been received."""
        ...

    def lane_lost(self, error: CarrierError) -> None: ...

    def lane_paused(self) -> None:
        """The lane takes no more bytes for now."""
        ...

    def lane_resumed(self) -> None: ...

    def cut(self) -> None: ...


class LanePool(Protocol[L]):
    """What a lane notifies when it belongs to a pool."""

    @property
    def serves(self) -> bool:
        """Whether it takes openings."""
        ...

    def lane_opening(self, lane: L, opening: Opening) -> None:
        """Acceptor, in a pool that serves: OPEN was received."""
        ...

    def lane_idle(self, lane: L) -> None:
        """Its visit is over, on both sides."""
        ...

    def lane_retires(self, lane: L) -> None:
        """Opener: the peer asks for the lane, which is idle, to be closed."""
        ...

    def lane_closed(self, lane: L, error: CarrierError) -> None: ...
