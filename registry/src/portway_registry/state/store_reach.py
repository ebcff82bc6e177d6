"""Whether this replica reaches its store: asked every other second, and when a node looks for a replica that does.

Here: asking, and when the store counts as away. Not here: what follows (nodes/hub.py).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from portway_runtime.backoff import jittered
from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.tasks import Tasks

from portway_registry.errors import StoreError, StoreUnavailable
from portway_registry.state import keys
from portway_registry.store.contract import Store

logger = logging.getLogger(__name__)

# Seconds between two reads, and after one that was not answered.
_EVERY: Final = 2.0
_AGAIN_AFTER: Final = 0.5
# Seconds for one read: longer than etcd takes to elect a leader.
_READ_TIME: Final = 2.0
# Seconds without an answer after which the store is away: 4.5 to 7 s after it was lost. Nodes move before their leases
# end, 10 s after that at the soonest.
_AWAY_AFTER: Final = 4.0
# Seconds for which an answer is one of now. A store that is lost for all replicas is not found at any of them: each has
# asked again by the time that it is away for one.
_FRESH: Final = 1.0


class StoreReach:
    """Asks the store."""

    def __init__(
        self, store: Store, *, clock: Monotonic = monotonic, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._asked_at = clock()  # when the last read ended
        self._silent_since: float | None = None  # when the first read began that was not answered
        self._asking: asyncio.Task[None] | None = None
        self._tasks = Tasks("reaching the store", on_failure)
        self._subscribers: list[Callable[[], None]] = []
        self.away = False  # no read was answered for seconds

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed()` whenever `away` has changed. Returns a function that unsubscribes."""
        self._subscribers.append(changed)
        return lambda: self._subscribers.remove(changed)

    def start(self) -> None:
        """Keep asking."""
        self._tasks.spawn(self._keep_asking(), name="keep asking")

    async def close(self) -> None:
        await self._tasks.close()

    async def answers_now(self) -> bool:
        """Whether the store answers, or has done so within the last second; those who ask together share a read."""
        if self._asking is not None or self._clock() - self._asked_at > _FRESH:
            await self._ask()
        return self._silent_since is None

    async def _keep_asking(self) -> None:
        while True:
            await self._ask()
            since = self._silent_since
            if since is None or self._clock() - since >= _AWAY_AFTER:
                self._set(since is not None)
            await asyncio.sleep(jittered(_EVERY) if since is None else _AGAIN_AFTER)

    def _set(self, away: bool) -> None:
        if away == self.away:
            return
        self.away = away
        if away:
            logger.warning("the store is not reached: nodes go to another registry, if one reaches it")
        else:
            logger.info("the store is reached again")
        for changed in tuple(self._subscribers):
            changed()

    async def _ask(self) -> None:
        """Ask once, or wait for the answer that somebody waits for."""
        if self._asking is None:
            self._asking = self._tasks.spawn(self._read(), name="ask")
        await asyncio.wait([self._asking])

    async def _read(self) -> None:
        began, answered = self._clock(), True
        try:
            async with asyncio.timeout(_READ_TIME):
                await self._store.get(keys.SETTINGS)
        except (StoreUnavailable, TimeoutError):
            answered = False
        except StoreError:
            pass  # a refusal is an answer
        finally:
            self._asking = None
        if answered:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = began
        self._asked_at = self._clock()
