"""OPENED frames that wait a moment, to leave in one write with the local server's first bytes.

One timer serves all lanes: a timer for each would cost a visit as much as the write that it saves.
"""

import asyncio
from typing import Final

from portway_carrier.python.lanes.lane import PyLane

# Seconds. A server on the same machine answers within it. An opener with a long first flight stands still meanwhile.
SHORTEST_WAIT: Final = 0.005


class DeferredOpened:
    """Sends each deferred frame between one and two times SHORTEST_WAIT after it was added, unless it has left with
    other bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._added: list[tuple[PyLane, bytes]] = []
        self._due: list[tuple[PyLane, bytes]] = []  # sent when the timer next fires
        self._running = False

    def add(self, lane: PyLane, frame: bytes) -> None:
        """Send `lane.deferred`, which is `frame`, after the wait."""
        self._added.append((lane, frame))
        if not self._running:
            self._running = True
            self._loop.call_later(SHORTEST_WAIT, self._run)

    def _run(self) -> None:
        sending = self._due
        self._due = [(lane, frame) for lane, frame in self._added if lane.deferred is frame]
        self._added = []
        for lane, frame in sending:
            lane.send_deferred(frame)
        self._running = bool(self._due)
        if self._running:
            self._loop.call_later(SHORTEST_WAIT, self._run)
