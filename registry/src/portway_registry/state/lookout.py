"""Doing what is due: a look at the views whenever they change, and every so often for the time of day.

Here: when to look, and waiting until a look has brought something about. Not here: what is due.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NoReturn

from portway_registry.errors import NotYet, StoreUnavailable
from portway_registry.state.gathered_changes import GatheredChanges
from portway_registry.state.views import View
from portway_registry.state.waiting import until

logger = logging.getLogger(__name__)

_AGAIN_AFTER: Final = 2.0  # seconds, when a look did not succeed
_GATHERED: Final = 0.05  # seconds; what changes together is looked at together


class Lookout:
    """Calls `look`, whose NotYet and StoreUnavailable mean: again soon."""

    def __init__(self, look: Callable[[], Awaitable[None]], *, every: float, trouble: str) -> None:
        """every: seconds between two looks while nothing changes. trouble: what the log says of a look that failed."""
        self._look = look
        self._every = every
        self._trouble = trouble
        self._changes = GatheredChanges(_GATHERED)

    def notice(self, *_: object) -> None:
        """Something has changed that matters: look soon. Subscribes to a view as it is."""
        self._changes.notice()

    async def run(self, unsubscribes: Iterable[Callable[[], None]]) -> NoReturn:
        """Look, for ever. At the end call all of `unsubscribes`."""
        try:
            while True:
                wait = self._every
                try:
                    await self._look()
                except (StoreUnavailable, NotYet) as error:
                    logger.warning(self._trouble, extra={"reason": str(error)})
                    wait = _AGAIN_AFTER
                await self._changes.wait(wait)
        finally:
            for unsubscribe in unsubscribes:
                unsubscribe()

    async def until(self, reached: Callable[[], bool], views: Iterable[View[Any]], within: float) -> None:
        """Look now and at each change of `views`, until it is reached or `within` seconds are over. Raises what `look`
        and `reached` raise."""
        await until(reached, views, within, look=self._look)
