"""Punctuality: whether the engine gets the interpreter in time, and one warning when the program's own threads keep it.

Once a second, while tunnels are open, the engine looks how late its timer is and how much the program has computed
meanwhile. Both have to come together: a machine that slept, a process that was stopped and one that has no processor
are late, too, and another process would be as late there.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from portway_runtime.clocks import Monotonic, monotonic

logger = logging.getLogger(__name__)

# Seconds between two looks.
INTERVAL: Final = 1.0
# Seconds. A thread that computes in pure Python gives the interpreter up 5 ms after it is asked to, each time that
# something comes for the engine. Timers are exact to a millisecond.
LATE: Final = 0.004
# Of a core, by the program's other threads.
COMPUTES: Final = 0.5
# So many of the last looks: not a program that computes for a moment now and then.
LOOKS: Final = 20
LATE_LOOKS: Final = 10


class Rule:
    """Whether a loop is late again and again because its program computes."""

    def __init__(self) -> None:
        self._looks: deque[bool] = deque(maxlen=LOOKS)

    def looked(self, late: float, computed: float) -> bool:
        """Another look, `late` by so many seconds, the program having used `computed` of a core. Returns whether it is
        time to say so."""
        self._looks.append(late >= LATE and computed >= COMPUTES)
        return sum(self._looks) >= LATE_LOOKS


def computed_elsewhere() -> float:
    """Seconds of processor time of the process's other threads."""
    return time.process_time() - time.thread_time()


class Punctuality:
    """Used on the engine's loop. It warns once in an engine's life."""

    def __init__(
        self,
        wanted: Callable[[], object],
        clock: Monotonic = monotonic,
        computed: Callable[[], float] = computed_elsewhere,
    ) -> None:
        """`wanted`: whether there is anything that may be late. `computed`: processor time in seconds."""
        self._wanted = wanted
        self._clock = clock
        self._computed = computed
        self._rule = Rule()
        self._timer: asyncio.TimerHandle | None = None
        self._warned = False
        self._last = (0.0, 0.0)

    def begin(self) -> None:
        """Look from now on, unless it does already or has warned."""
        if self._timer is None and not self._warned:
            self._schedule()

    def end(self) -> None:
        """Look no more. Can be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._last = self._clock(), self._computed()
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._wanted():
            return
        since, computed_before = self._last
        elapsed = self._clock() - since
        computed = (self._computed() - computed_before) / elapsed
        if self._rule.looked(elapsed - INTERVAL, computed):
            self._warned = True
            logger.warning(
                "this program computes, and the visitors of its tunnels wait for it: in %d of the last %d seconds "
                "Portway's thread got the interpreter late. Pass process=True to forward(), set PORTWAY_PROCESS=1, or "
                "run `portway forward` beside the program",
                LATE_LOOKS,
                LOOKS,
            )
        else:
            self._schedule()
