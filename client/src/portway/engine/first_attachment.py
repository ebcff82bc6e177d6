"""FirstAttachment: searches for a node until there is a session, while somebody waits for the first tunnel.

On a machine that starts, names and networks appear late; a cluster that starts has no node for some seconds. Those who
wait have time limits of their own. Not here: one search (search.py), attaching again after a loss (link.py).
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from portway_runtime.backoff import Backoff

from portway.engine.dialling import NO_ANSWER_YET
from portway.engine.failures import FIRST_PAUSE
from portway.engine.search import Attachment, Resumption, Search
from portway.engine.session import SessionEvents
from portway.errors import Attempt, UnreachableError

logger = logging.getLogger(__name__)

# Seconds. Somebody waits, for ten seconds by default: a registry that has come is noticed within this.
LONGEST_PAUSE: Final = 1.0


class FirstAttachment:
    """`failure`: why the last whole search found no node; None when it found one, and before the first."""

    def __init__(self, search: Search, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._search = search
        self._sleep = sleep
        self.failure: UnreachableError | None = None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Who was tried, and why each was not used: by the last whole search, and by the one in progress."""
        if self.failure is None:
            return self._search.attempts
        latest = (one for one in self._search.attempts if one.reason != NO_ANSWER_YET)
        return tuple({(one.name, one.address): one for one in (*self.failure.attempts, *latest)}.values())

    async def attach(
        self,
        events: SessionEvents,
        resumable: Callable[[], Resumption | None],
        new_tunnels: Callable[[], int],
    ) -> Attachment:
        """Search until a node accepts. Pauses grow to LONGEST_PAUSE; nodes that asked to wait are waited for.

        Both are called before each search. new_tunnels: 0 where a tunnel of an engine that has ended comes back, for
        it has its place in the quota.

        Raises what Search.attach does, UnreachableError only where trying again does not help. May be cancelled.
        """
        self.failure = None
        pauses = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                attachment = await self._search.attach(events, resumable(), new_tunnels=new_tunnels())
            except UnreachableError as error:
                if error.lasting:
                    raise
                if self.failure is None or str(self.failure) != str(error):
                    logger.info("not attached yet, trying again: %s", error)
                self.failure = error
                await self._sleep(max(pauses.next(), self._search.wait_before_dialling))
            else:
                self.failure = None
                return attachment
