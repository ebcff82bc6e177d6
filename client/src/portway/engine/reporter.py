"""Reporter: tells a registry the round trips that a race measured, in the background.

Nothing waits for a report, and nothing fails because of one. It is sent once, some seconds later, and only if it is
news. So a short-lived client reports nothing; clients that lose a node together report nothing, since they race the
nodes that they know and ask no registry; and a registry is not told what it said itself.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final

from portway_runtime.tasks import Tasks

from portway.engine.directory import Directory, Located, RoundTrip

logger = logging.getLogger(__name__)

# Seconds. The tunnel's first visitors are served first, and clients that started together do not report together.
REPORT_AFTER: Final = 2.0
REPORT_WITHIN: Final = 6.0
# A learned round trip is good enough within both: registries tell nodes apart by whole milliseconds.
NEWS_MS: Final = 2.0
NEWS_SHARE: Final = 0.25


class Reporter:
    """Reports to registries. Its tasks end with their owner's."""

    def __init__(self, directory: Directory, tasks: Tasks) -> None:
        self._directory = directory
        self._tasks = tasks

    def tell(self, round_trips: Sequence[RoundTrip], located: Located) -> None:
        """Report the round trips of one race later, if any is news to the registry that answered `located`."""
        if any(is_news(one, located) for one in round_trips):
            self._tasks.spawn(self._report(tuple(round_trips)), name="report round trips")

    async def _report(self, round_trips: Sequence[RoundTrip]) -> None:
        await asyncio.sleep(random.uniform(REPORT_AFTER, REPORT_WITHIN))  # noqa: S311 - spreads load
        try:
            await self._directory.report(round_trips)
        except Exception as error:  # no error here may end a tunnel
            logger.debug("no registry was told of round trips: %r", error)


def is_news(one: RoundTrip, located: Located) -> bool:
    """Whether a registry with the expectations of `located` would expect something else after this measurement."""
    expected = located.expected.get(one.node)
    if expected is None:
        return True
    if one.at_least:
        return one.ms > expected.ms + NEWS_MS
    return not expected.learned or abs(one.ms - expected.ms) > max(NEWS_MS, NEWS_SHARE * expected.ms)
