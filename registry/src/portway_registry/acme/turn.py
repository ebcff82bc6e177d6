"""One replica at a time: a key in the store on a lease, which the replica that has it keeps alive.

Here: getting the turn, keeping it, and what happens when it is lost. Not here: what is done meanwhile. A replica that
is killed loses its turn when its lease ends; one that is cut off from the store gives up before others can have it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from portway_runtime.backoff import jittered
from portway_runtime.tasks import Tasks

from portway_registry.errors import LeaseLost, StoreUnavailable
from portway_registry.store.contract import ABSENT, LeaseId, Store

logger = logging.getLogger(__name__)

# Seconds at most between two looks whether the turn is free.
_LOOK_EVERY: Final = 2.0
# Refreshes in the time of a lease: two may fail.
_REFRESHES: Final = 3
# The share of its lease after which a replica that could not refresh it stops; the rest is for ending what it does.
_SAFE_SHARE: Final = 0.8


@dataclass(frozen=True, slots=True)
class _Taken:
    """A turn that was taken. asked_at: when its lease was asked for, on the loop's clock; it has not ended earlier than
    its length after that."""

    lease: LeaseId
    asked_at: float


class Turn:
    """The turn to do something, which one replica has."""

    def __init__(self, store: Store, key: str, replica: str, *, lease_seconds: float) -> None:
        """replica: what the key's value says, for people."""
        self._store = store
        self._key = key
        self._replica = replica
        self._lease_seconds = lease_seconds
        self.held = False

    async def run(self, work: Callable[[], Awaitable[object]]) -> NoReturn:
        """Do `work` whenever it is this replica's turn, for ever: it is cancelled when the turn is lost."""
        while True:
            taken = await self._take()
            if taken is not None:
                logger.info("this registry obtains certificates from now on")
                try:
                    await self._do(work, taken)
                finally:
                    self.held = False
                    await self._give_up(taken.lease)
            await asyncio.sleep(jittered(min(_LOOK_EVERY, self._lease_seconds / _REFRESHES)))

    async def _take(self) -> _Taken | None:
        """The turn; None while another replica has it or the store cannot be reached."""
        try:
            if await self._store.get(self._key) is not None:
                return None
            asked_at = asyncio.get_running_loop().time()
            lease = await self._store.grant_lease(self._lease_seconds)
            if await self._store.put(self._key, self._replica.encode(), expected=ABSENT, lease=lease):
                return _Taken(lease, asked_at)
            await self._store.revoke_lease(lease)
        except (StoreUnavailable, LeaseLost) as error:
            logger.info("no turn to obtain certificates", extra={"reason": str(error)})
        return None

    async def _do(self, work: Callable[[], Awaitable[object]], taken: _Taken) -> None:
        """Until the turn is lost. What `work` raises ends it, too."""
        self.held = True
        working = Tasks("obtaining certificates")

        async def do() -> None:
            await work()

        async def keep() -> None:
            await self._keep(taken)

        try:
            tasks = [working.spawn(do(), name="work"), working.spawn(keep(), name="keep the turn")]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await working.close()

    async def _keep(self, taken: _Taken) -> None:
        """Refresh the lease; returns when it is lost, or may be soon."""
        loop = asyncio.get_running_loop()
        safe_for = self._lease_seconds * _SAFE_SHARE
        safe_until = taken.asked_at + safe_for
        while (left := safe_until - loop.time()) > 0:
            await asyncio.sleep(min(self._lease_seconds / _REFRESHES, left))
            asked_at = loop.time()
            try:
                async with asyncio.timeout_at(safe_until):
                    await self._store.keep_lease(taken.lease)
                safe_until = asked_at + safe_for
            except LeaseLost:
                break
            except (StoreUnavailable, TimeoutError):
                continue
        logger.warning("the turn to obtain certificates is lost")

    async def _give_up(self, lease: LeaseId) -> None:
        try:
            await self._store.revoke_lease(lease)
        except StoreUnavailable as error:
            logger.info("the turn is left to its lease", extra={"reason": str(error)})
