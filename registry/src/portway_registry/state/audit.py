"""The audit: one entry for each change that an operator or a joining node made to the cluster."""

import logging
import secrets
from collections.abc import Callable
from typing import Final

from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.records import AuditRecord, decoder, encode
from portway_registry.store.contract import Store

logger = logging.getLogger(__name__)

_read: Final = decoder(AuditRecord)


class Audit:
    """The audit of a cluster, in the order of time."""

    def __init__(self, store: Store, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms

    async def add(self, actor: str, action: str, target: str) -> None:
        """Record that `actor` (a token's or an invitation's id) did `action` to `target`. Raises StoreUnavailable."""
        now = self._now_ms()
        record = AuditRecord(at_ms=now, actor=actor, action=action, target=target)
        await self._store.put(keys.audit(now, secrets.token_hex(4)), encode(record))

    async def add_done(self, actor: str, action: str, target: str) -> bool:
        """As `add`, for a change that is in the store already: an outage is logged, since the change must not be
        reported as failed.

        False: the store does not answer. Its time limit has been waited out then; a caller that waits for a second one
        lets its own caller's time run out, who would believe that the change failed.
        """
        try:
            await self.add(actor, action, target)
        except StoreUnavailable as error:
            logger.warning("done, but not in the audit: %s of %s by %s (%s)", action, target, actor, error)
            return False
        return True

    async def latest(self, limit: int) -> list[AuditRecord]:
        """The `limit` newest entries, the newest first. Raises StoreUnavailable."""
        listing = await self._store.list(keys.AUDIT)
        return [_read(found.value) for found in reversed(listing.entries[-limit:])]
