"""What clients and other nodes may send on a data lane outside its visits; and what is common to budgets of frames."""

from typing import Final

from portway_runtime.clocks import Monotonic
from portway_runtime.rates import TokenBucket

# A data lane needs one PING or PONG every 5 s outside its visits.
_FRAMES_PER_SECOND: Final = 2
_FRAME_BURST: Final = 64
# So many bytes count as one frame more: a BIND with a ticket has 1.5 KiB, and parsing 256 empty frames takes a tenth of
# a millisecond.
BYTES_PER_FRAME: Final = 1024
# Bytes that may wait in the system for a lane that is left unread: some 1,000 PINGs, as Linux doubles it.
UNREAD: Final = 8 * 1024


class DataLaneBudget:
    """The FrameBudget of one data lane."""

    __slots__ = ("_bucket",)
    unread: Final = UNREAD

    def __init__(self, clock: Monotonic) -> None:
        self._bucket = TokenBucket(_FRAMES_PER_SECOND, _FRAME_BURST, clock)

    def charge(self, frames: int, size: int) -> float:
        return self._bucket.charge(frames + size / BYTES_PER_FRAME)
