"""Time without the pauses of this process: a machine that stands still for seconds has not let anybody wait.

Here: a clock that leaves them out, for limits that are promises, and how long they were. Not here: machines that are
only slow; there this clock goes like any other.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, Self

_EVERY: Final = 0.02  # seconds between two looks
_PAUSE: Final = 0.5  # seconds; whoever is late by less was busy


class OwnTime:
    """`with OwnTime() as own_time:`; `own_time()` is monotonic, in seconds, and stands in pauses of this process.

    What computes in this process while nobody else gets on, by holding the interpreter's lock, is no pause.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, used: Callable[[], float] = time.process_time
    ) -> None:
        """used: seconds of processor time that this process has had."""
        self._clock = clock
        self._used = used
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="own time")
        self._looked = clock(), used()
        self._lost = 0.0

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def __call__(self) -> float:
        return self._look()[0]

    def of(self, act: Callable[[], object]) -> float:
        """How long a call takes, in seconds."""
        began = self()
        act()
        return self() - began

    def lost(self) -> float:
        """Seconds of all pauses so far, with one that is just over."""
        return self._look()[1]

    def _go_on(self) -> None:
        while not self._over.wait(_EVERY):
            self._look()

    def _look(self) -> tuple[float, float]:
        with self._lock:
            now, used = self._clock(), self._used()
            pause = (now - self._looked[0]) - _EVERY - (used - self._looked[1])
            if pause > _PAUSE:
                self._lost += pause
            self._looked = now, used
            return now - self._lost, self._lost
