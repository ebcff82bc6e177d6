"""What a race has measured goes back to a registry, in the background, after everything else.

Nothing waits for it, and nothing fails by it: it is told once, some seconds later, and only if it is news. So a client
that lives for a moment says nothing, those that lose a node together say nothing (they race what they know, and ask no
registry), and a registry that has learned is not told again what it said itself.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final

from portway_runtime.tasks import Tasks

from portway.engine.directory import Directory, Located, RoundTrip

logger = logging.getLogger(__name__)

# The tunnel's first visitors come first; and clients that were started together do not report together.
REPORT_AFTER: Final = 2.0
REPORT_WITHIN: Final = 6.0
# What a registry has learned is good enough within both: it tells nodes apart by whole milliseconds.
NEWS_MS: Final = 2.0
NEWS_SHARE: Final = 0.25


class Reporter:
    """Tells registries of round trips. Its tasks end with their owner's."""

    def __init__(self, directory: Directory, tasks: Tasks) -> None:
        self._directory = directory
        self._tasks = tasks

    def tell(self, round_trips: Sequence[RoundTrip], located: Located) -> None:
        """Report the round trips of one race between nodes that were `located`, later, if they are news."""
        if any(is_news(one, located) for one in round_trips):
            self._tasks.spawn(self._later(tuple(round_trips)), name="report round trips")

    async def _later(self, round_trips: Sequence[RoundTrip]) -> None:
        await asyncio.sleep(random.uniform(REPORT_AFTER, REPORT_WITHIN))  # noqa: S311 - spreads load
        try:
            await self._directory.report(round_trips)
        except Exception as error:  # whatever it is, no tunnel is to end for it
            logger.debug("no registry was told of round trips: %r", error)


def is_news(one: RoundTrip, located: Located) -> bool:
    """Whether a registry that expected what it said would expect otherwise now."""
    expected = located.expected.get(one.node)
    if expected is None:
        return True
    if one.at_least:
        return one.ms > expected.ms + NEWS_MS
    return not expected.learned or abs(one.ms - expected.ms) > max(NEWS_MS, NEWS_SHARE * expected.ms)
