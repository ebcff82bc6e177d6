"""What a lane receives outside visits: how much of it is taken, and how fast.

Here: the first frame's size, budgets, one PONG for all PINGs of one read, signs of life meanwhile. Not here: what
frames mean, and reading on (lane.py).
"""

import math
from typing import Final

from portway_proto.wire.errors import RemoteProtocolError
from portway_proto.wire.frames import FrameType, encode_frame
from portway_proto.wire.limits import HEADER_SIZE, MAX_CONTROL

from portway_carrier.contract import FrameBudget

# Bytes before the first frame is complete: the largest one.
_MAX_GREETING: Final = HEADER_SIZE + MAX_CONTROL
# Shows the peer of a lane that is read slowly that this side lives: its own PINGs wait behind what is not read.
LIFE: Final = encode_frame(FrameType.PING, bytes(8))


class ControlIntake:
    """Counts what is received, read by read. Before the first frame nothing is answered."""

    __slots__ = ("_greeting_size", "_life_shown_at", "_ping", "budget", "greeted")

    def __init__(self, *, greeted: bool) -> None:
        self.greeted = greeted  # whether the first frame has come
        self.budget: FrameBudget | None = None
        self._greeting_size = 0
        self._life_shown_at = -math.inf
        self._ping: bytes | None = None  # the payload of the last PING of this read

    def pinged(self, payload: bytes) -> None:
        """A PING came."""
        if self.greeted:
            self._ping = payload

    def take_ping(self) -> bytes | None:
        """The payload that a PONG is due for."""
        ping, self._ping = self._ping, None
        return ping

    def charge(self, frames: int, size: int, patience: float) -> float:
        """Count a read of so many frames and bytes outside visits. Returns the seconds for which to read no more.

        Raises RemoteProtocolError when that would be more than `patience`, or the first frame is too large.
        """
        if not self.greeted:
            self._greeting_size += size
            if self._greeting_size > _MAX_GREETING:
                raise RemoteProtocolError(f"more than {_MAX_GREETING} bytes before the first frame")
        elif self.budget is not None:
            seconds = self.budget.charge(frames, size)
            if seconds > patience:
                raise RemoteProtocolError("too many frames outside visits")
            return seconds
        return 0.0

    def is_life_due(self, now: float, ping_interval: float) -> bool:
        """Whether LIFE is to be sent now, on a lane that is left unread; twice in each interval."""
        if now - self._life_shown_at < ping_interval / 2:
            return False
        self._life_shown_at = now
        return True
