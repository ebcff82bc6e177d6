"""A new grant key now and then, so that one that was copied unnoticed is worth nothing in the end.

Here: when a key is made and when one is forgotten. Not here: what they sign (grants.py), nor how nodes learn of them
(mesh/hub.py tells each node the moment the store has changed).

Replicas need not agree on who does it: the kid counts up, and one compare-and-swap lets one of them have it.
"""

import asyncio
import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from portway_registry.access.grants import new_key
from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.records import GrantKeyRecord, encode
from portway_registry.state.views import View
from portway_registry.store.contract import Revision, Store

logger = logging.getLogger(__name__)

_ABSENT: Final = Revision(0)
_HOUR_MS: Final = 3_600_000
# How long a key signs.
_LIFE_MS: Final = 30 * 24 * _HOUR_MS
# A node that has been cut off from every registry for a day may not know a younger key yet.
_PUBLISHED_BEFORE_USE_MS: Final = 24 * _HOUR_MS
# A grant lives 1 h and may be honoured for 24 h past its end (DESIGN §11); one more for clocks that differ.
_NEEDED_AFTER_USE_MS: Final = 26 * _HOUR_MS
_LOOK_EACH: Final = 3_600.0  # seconds


class KeyRotation:
    """Looks after the cluster's grant keys."""

    def __init__(self, store: Store, known: View[GrantKeyRecord], now_ms: Callable[[], int]) -> None:
        self._store = store
        self._known = known
        self._now_ms = now_ms

    async def run(self) -> None:
        """Look each hour, for ever; an outage of the store waits for the next time."""
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                logger.warning("grant keys not looked after", extra={"reason": str(error)})
            await asyncio.sleep(_LOOK_EACH)

    async def look(self) -> None:
        """Make and forget what is due now. Raises StoreUnavailable."""
        now = self._now_ms()
        known = sorted(self._known.items.values(), key=lambda item: item.value.active_from_ms)
        if not known:
            return
        if now >= known[-1].value.active_from_ms + _LIFE_MS - _PUBLISHED_BEFORE_USE_MS:
            await self._make(now + _PUBLISHED_BEFORE_USE_MS)
        for old, younger in pairwise(known):
            needed_until = younger.value.active_from_ms + _NEEDED_AFTER_USE_MS
            if now > needed_until and await self._store.delete(keys.grant_key(old.name), expected=old.modified):
                logger.info("grant key forgotten", extra={"kid": old.name})

    async def _make(self, active_from_ms: int) -> None:
        kid = str(1 + max((int(name) for name in self._known.items if name.isdecimal()), default=0))
        if await self._store.put(
            keys.grant_key(kid), encode(new_key(kid, active_from_ms=active_from_ms)), expected=_ABSENT
        ):
            logger.info("grant key made", extra={"kid": kid})
