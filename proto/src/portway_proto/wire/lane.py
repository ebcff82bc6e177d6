"""The states of one end of a lane that carries visits (WIRE.md §4).

Both ends use the same class; `Side` says which end opens. It takes frames and commands, and returns events and bytes to
send; it uses no socket and no clock. DATA does not pass through it: `sends` and `takes` say what to do with DATA. PING,
PONG, RETIRE, FAIL and the frames of control lanes are handled elsewhere.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from portway_proto.wire.errors import LocalProtocolError, RemoteProtocolError
from portway_proto.wire.frames import (
    Bytes,
    FrameType,
    Opening,
    RefusalReason,
    decode_number,
    decode_open,
    decode_refused,
    encode_number,
    encode_open,
    encode_refused,
)
from portway_proto.wire.limits import MAX_NUMBER


class Side(Enum):
    """The two ends of a lane."""

    OPENER = "opener"  # sends OPEN: the node on a client's lane, the dialler on a mesh lane
    ACCEPTOR = "acceptor"


class Phase(IntEnum):
    """How far the current visit has got."""

    IDLE = 0
    OPENING = 1  # OPEN was sent or received, and neither answered nor reset
    RUNNING = 2  # OPENED was sent or received, or the visit was reset; not ended by both sides


class Ending(IntEnum):
    """How one direction of a visit has ended, if it has."""

    NONE = 0
    END = 1
    RESET = 2


class Take(Enum):
    """What a side does with DATA that it receives."""

    DELIVER = "deliver"
    DISCARD = "discard"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class VisitOpening:
    """OPEN was received: answer with `opened` or `refuse`."""

    opening: Opening


@dataclass(frozen=True, slots=True)
class VisitOpened:
    """The acceptor took the visit."""


@dataclass(frozen=True, slots=True)
class VisitRefused:
    """The acceptor did not take the visit: the lane is idle, and what was sent may be sent again elsewhere."""

    reason: RefusalReason
    message: str


@dataclass(frozen=True, slots=True)
class VisitEnded:
    """The peer will send no more DATA."""


@dataclass(frozen=True, slots=True)
class VisitReset:
    """The peer gave up both directions. `answer` must be sent; it is empty when this side had ended already."""

    answer: bytes


Event = VisitOpening | VisitOpened | VisitRefused | VisitEnded | VisitReset

VISIT_FRAMES: Final = frozenset({FrameType.OPEN, FrameType.OPENED, FrameType.REFUSED, FrameType.END, FrameType.RESET})


class LaneState:
    """One end of a lane. `number` is that of the current visit or, while idle, of the last one."""

    __slots__ = ("_refused", "number", "phase", "received", "sent", "side")

    def __init__(self, side: Side) -> None:
        self.side = side
        self.number = 0
        self.phase = Phase.IDLE
        self.sent = Ending.NONE
        self.received = Ending.NONE
        self._refused = False  # acceptor: DATA is dropped until the next OPEN, as the opener may not know yet

    @property
    def idle(self) -> bool:
        return self.phase is Phase.IDLE

    @property
    def sends(self) -> bool:
        """Whether DATA may be sent now."""
        if self.sent is not Ending.NONE:
            return False
        return self.phase is Phase.RUNNING or (self.phase is Phase.OPENING and self.side is Side.OPENER)

    @property
    def takes(self) -> Take:
        """What to do with DATA that is received now."""
        if self.phase is Phase.IDLE:
            return Take.DISCARD if self._refused else Take.ERROR
        if self.received is not Ending.NONE or (self.phase is Phase.OPENING and self.side is Side.OPENER):
            return Take.ERROR
        return Take.DISCARD if self.sent is Ending.RESET else Take.DELIVER

    @property
    def awaits_answer(self) -> bool:
        """Whether a RESET was sent and the peer has not ended. The caller bounds this by RESET_ANSWER_TIMEOUT."""
        return self.phase is not Phase.IDLE and self.sent is Ending.RESET

    @property
    def spent(self) -> bool:
        """Whether this lane's numbers are used up. The opener closes it after this visit."""
        return self.number == MAX_NUMBER

    def open(self, opening: Opening) -> bytes:
        """Begin the next visit: the OPEN frame. For the opener, on an idle lane.

        This method and the four below raise LocalProtocolError when the state does not allow the frame. `open` also
        raises ValueError, having changed nothing, when OPEN cannot express `opening`.
        """
        if self.side is not Side.OPENER or self.phase is not Phase.IDLE:
            raise LocalProtocolError(f"open: {self!r}")
        if self.spent:
            raise LocalProtocolError("open: this lane's numbers are used up, close it")
        frame = encode_open(self.number + 1, opening)
        self.number += 1
        self._begin()
        return frame

    def opened(self) -> bytes:
        """Take the visit that was opened: the OPENED frame. For the acceptor."""
        self._demand_opening("opened")
        self.phase = Phase.RUNNING
        return encode_number(FrameType.OPENED, self.number)

    def refuse(self, reason: RefusalReason, message: str = "") -> bytes:
        """Do not take the visit: the REFUSED frame. For the acceptor, whose lane is idle at once."""
        self._demand_opening("refuse")
        self.phase = Phase.IDLE
        self._refused = True
        return encode_refused(self.number, reason, message)

    def end(self) -> bytes:
        """Send no more DATA: the END frame."""
        if not self.sends:
            raise LocalProtocolError(f"end: {self!r}")
        return self._send_ending(Ending.END)

    def reset(self) -> bytes:
        """Give up both directions: the RESET frame. Allowed after END, but not after RESET or on an idle lane."""
        if self.phase is Phase.IDLE or self.sent is Ending.RESET:
            raise LocalProtocolError(f"reset: {self!r}")
        return self._send_ending(Ending.RESET)

    def receive(self, frame_type: int, payload: Bytes) -> Event | None:
        """The event of a received frame that belongs to a visit; None if that visit is over or was reset by this side.

        The frame may have ended the visit: look at `idle` afterwards.

        Raises RemoteProtocolError when the peer may not send the frame now. The state must not be used after that.
        """
        if frame_type not in VISIT_FRAMES:
            raise RemoteProtocolError(f"frame 0x{frame_type:02x} does not belong to a visit")
        if frame_type == FrameType.OPEN:
            return self._receive_open(payload)
        number = decode_number(payload)
        if number > self.number:
            raise RemoteProtocolError(f"number {number} is ahead of {self.number}")
        if number < self.number or self.phase is Phase.IDLE:
            return None
        if frame_type == FrameType.OPENED:
            self._demand_answerable("OPENED")
            self.phase = Phase.RUNNING
            return None if self.sent is Ending.RESET else VisitOpened()
        if frame_type == FrameType.REFUSED:
            self._demand_answerable("REFUSED")
            self.phase = Phase.IDLE
            return None if self.sent is Ending.RESET else VisitRefused(*decode_refused(payload))
        if frame_type == FrameType.END:
            return self._receive_end()
        return self._receive_reset()

    def _receive_open(self, payload: Bytes) -> VisitOpening:
        if self.side is not Side.ACCEPTOR:
            raise RemoteProtocolError("OPEN from the side that does not open")
        if self.phase is not Phase.IDLE:
            raise RemoteProtocolError("OPEN while a visit is in progress")
        number, opening = decode_open(payload)
        if number != self.number + 1:
            raise RemoteProtocolError(f"OPEN has number {number} after {self.number}")
        self.number = number
        self._begin()
        return VisitOpening(opening)

    def _receive_end(self) -> VisitEnded | None:
        self._demand_ending_allowed("END")
        self.received = Ending.END
        reset_before = self.sent is Ending.RESET
        self._settle()
        return None if reset_before else VisitEnded()

    def _receive_reset(self) -> VisitReset | None:
        reset_before = self.sent is Ending.RESET
        self.received = Ending.RESET
        answer = self._send_ending(Ending.RESET) if self.sent is Ending.NONE else b""
        self._settle()
        return None if reset_before else VisitReset(answer)

    def _begin(self) -> None:
        self.phase = Phase.OPENING
        self.sent = self.received = Ending.NONE
        self._refused = False

    def _send_ending(self, ending: Ending) -> bytes:
        self.sent = ending
        if ending is Ending.RESET and self.side is Side.ACCEPTOR:
            self.phase = Phase.RUNNING  # a reset visit can no longer be taken or refused
        frame = encode_number(FrameType.RESET if ending is Ending.RESET else FrameType.END, self.number)
        self._settle()
        return frame

    def _settle(self) -> None:
        if self.sent is not Ending.NONE and self.received is not Ending.NONE:
            self.phase = Phase.IDLE

    def _demand_opening(self, what: str) -> None:
        if self.side is not Side.ACCEPTOR or self.phase is not Phase.OPENING:
            raise LocalProtocolError(f"{what}: {self!r}")

    def _demand_answerable(self, what: str) -> None:
        if self.side is not Side.OPENER or self.phase is not Phase.OPENING:
            raise RemoteProtocolError(f"{what} out of place")

    def _demand_ending_allowed(self, what: str) -> None:
        if self.received is not Ending.NONE:
            raise RemoteProtocolError(f"{what} after the end")
        if self.side is Side.OPENER and self.phase is Phase.OPENING:
            raise RemoteProtocolError(f"{what} before OPENED")

    def __repr__(self) -> str:
        return (
            f"<{self.side.value} {self.phase.name} visit {self.number} sent {self.sent.name} "
            f"received {self.received.name}>"
        )
