"""Frames that wait a moment for others to leave with.

One timer for all of them: a timer of its own would cost a visit as much as the frame that it saves.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from portway_carrier.python.carrier import PythonCarrier
    from portway_carrier.python.lanes.lane import PyLane

# A server on the same machine answers within it; an opener whose first flight was long stands still meanwhile.
SHORTEST_WAIT: Final = 0.005


class LateFrames:
    """Lanes with a frame that is late: it leaves after SHORTEST_WAIT, and before twice as long."""

    def __init__(self, carrier: "PythonCarrier") -> None:
        self._carrier = carrier
        self._waiting: list[tuple[PyLane, bytes]] = []
        self._next: list[tuple[PyLane, bytes]] = []  # to leave now, when the timer runs
        self._runs = False

    def add(self, lane: "PyLane", frame: bytes) -> None:
        self._waiting.append((lane, frame))
        if not self._runs:
            self._runs = True
            self._carrier.loop.call_later(SHORTEST_WAIT, self._run)

    def _run(self) -> None:
        leaving, self._next, self._waiting = self._next, [late for late in self._waiting if late[0].late is late[1]], []
        for lane, frame in leaving:
            lane.send_late(frame)
        self._runs = bool(self._next)
        if self._runs:
            self._carrier.loop.call_later(SHORTEST_WAIT, self._run)
