"""The first seconds of a node, in which it has yet to hear what exists.

A node listens before it knows anything: registries and other nodes dial it to see whether it is reached. Here: for how
long an unknown name is no reason for a refusal. Not here: what is asked meanwhile (lookup.py).
"""

import asyncio
from typing import Final

from portway_runtime.clocks import Monotonic

# A node whose registry is down tries others, each of which may be silent for seconds: until it has reached one, its
# first seconds are as many times longer.
_UNHEARD: Final = 4


class FirstSeconds:
    """Not over from `begin` on for so many seconds; while no registry was reached, for four times as many."""

    def __init__(self, seconds: float, clock: Monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._begun = -_UNHEARD * seconds  # over before the beginning
        self._heard = asyncio.Event()
        self._heard_at = 0.0

    @property
    def over(self) -> bool:
        """Whether what is not known now is refused."""
        return self._clock() >= self._end()

    def begin(self) -> None:
        """The node listens from now on."""
        self._begun = self._clock()

    def heard(self) -> None:
        """A registry can be asked from now on: whoever waits asks at once."""
        if not self._heard.is_set():
            self._heard_at = self._clock()
            self._heard.set()

    async def wait(self, seconds: float) -> None:
        """Wait so long, or until a registry can be asked, or the first seconds are over."""
        seconds = min(seconds, self._end() - self._clock())
        if self._heard.is_set():
            await asyncio.sleep(max(0.0, seconds))
            return
        try:
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        except TimeoutError:
            pass

    def _end(self) -> float:
        last = self._begun + _UNHEARD * self._seconds
        if not self._heard.is_set():
            return last
        # What other nodes and clients are about to say comes after the first answer of a registry.
        return min(last, max(self._begun, self._heard_at) + self._seconds)
