"""Waiting for changes of which several are answered at once: what changes together is seen together.

Here: the wait. Not here: what a change is, and what is done about it.
"""

import asyncio


class GatheredChanges:
    """Whether something has changed since the last wait."""

    def __init__(self, gathered: float) -> None:
        """gathered: seconds from the first change until a wait is over."""
        self._gathered = gathered
        self._any = asyncio.Event()

    def notice(self, *_: object) -> None:
        """Something has changed that matters. Subscribes to a view as it is."""
        self._any.set()

    async def wait(self, within: float | None = None) -> None:
        """Wait for a change and for those that come with it; without any at most `within` seconds."""
        try:
            async with asyncio.timeout(within):
                await self._any.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._gathered)
        self._any.clear()
