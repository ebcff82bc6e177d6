"""Visits on their way to another node, until something of them has arrived there.

Here: which of them are stuck. Not here: what becomes of those (visits.py), how it is known what has arrived, which is
the carrier's.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from portway_carrier.contract import Visit

# Seconds between two looks at the visits that have not arrived yet.
_LOOK_EVERY: Final = 0.25
# Seconds after which a visit is stuck: three times the longest round trip on Earth, and the handshake of a lane. A
# client that lost its node notices no sooner.
_STUCK_AFTER: Final = 1.0


class UnreachedVisits:
    """The visits of the last moment. One that arrives costs a single look."""

    def __init__(self) -> None:
        self._visits: deque[tuple[Visit, Callable[[Visit], None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Visits that are watched."""
        return len(self._visits)

    def watch(self, visit: Visit, stuck: Callable[[Visit], None]) -> None:
        """Watch a visit that begins now, until something of it arrives, or it ends. `stuck` is called once, when
        nothing has arrived for a while."""
        self._visits.append((visit, stuck))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY, self._look)

    def close(self) -> None:
        """Watch nothing more."""
        self._visits.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        visits, self._visits = self._visits, deque()
        for visit, stuck in visits:
            unreached_for = visit.unreached_for
            if unreached_for is None:
                continue
            if unreached_for >= _STUCK_AFTER:
                stuck(visit)
            else:
                self.watch(visit, stuck)
