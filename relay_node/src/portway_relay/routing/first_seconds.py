"""The first seconds of a node, in which it has yet to hear what exists.

A node listens before it knows anything: registries and other nodes dial it to see whether it is reached. Here: for how
long an unknown name is no reason for a refusal. Not here: what is asked meanwhile (lookup.py).
"""

import asyncio

from portway_runtime.clocks import Monotonic


class FirstSeconds:
    """Not over from `begin` on for so many seconds."""

    def __init__(self, seconds: float, clock: Monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._end = 0.0
        self._heard = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether what is not known now is refused."""
        return self._clock() >= self._end

    def begin(self) -> None:
        """The node listens from now on."""
        self._end = self._clock() + self._seconds

    def heard(self) -> None:
        """A registry can be asked from now on: whoever waits asks at once."""
        self._heard.set()

    async def wait(self, seconds: float) -> None:
        """Wait so long, or until a registry can be asked, or the first seconds are over."""
        seconds = min(seconds, self._end - self._clock())
        if self._heard.is_set():
            await asyncio.sleep(max(0.0, seconds))
            return
        try:
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        except TimeoutError:
            pass
