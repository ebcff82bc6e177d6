"""The share of the event loop's time that DNS may take: a budget for the whole node.

Whoever asks for random names costs the same as others, and cannot be told from them: what is above the share stays in
the kernel's queue, which drops what does not fit.
"""

from collections.abc import Callable
from typing import Final

from portway_runtime.clocks import Monotonic

# Seconds of the loop's time that may be taken at once.
_BURST: Final = 0.02
# Seconds after the last visit for which the loop counts as needed by visits.
_NEEDED_FOR: Final = 1.0
# Of the loop's time without visits; the rest is for the handshakes of the next ones.
_SHARE_WITHOUT_VISITS: Final = 0.8


class LoopShare:
    """Seconds of the loop's time that are left for DNS."""

    def __init__(self, share: float, visits: Callable[[], tuple[int, int]], clock: Monotonic) -> None:
        """share: from 0 to 1, while there are visits. visits: how many run, and how many there were."""
        self._share = share
        self._visits = visits
        self._clock = clock
        self._left = _BURST
        self._at = clock()
        self._begun = 0
        self._needed_until = 0.0
        self.spent = 0.0  # since the start

    def spend(self, seconds: float) -> None:
        """So much was taken."""
        self._refill()
        self._left -= seconds
        self.spent += seconds

    @property
    def wait(self) -> float:
        """Seconds until more may be taken; 0 means now."""
        self._refill()
        return 0.0 if self._left > 0 else (_BURST / 4 - self._left) / self._rate()

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(_BURST, self._left + (now - self._at) * self._rate())
        self._at = now

    def _rate(self) -> float:
        running, begun = self._visits()
        now = self._clock()
        if running or begun != self._begun:
            self._begun, self._needed_until = begun, now + _NEEDED_FOR
        return self._share if now < self._needed_until else max(self._share, _SHARE_WITHOUT_VISITS)
