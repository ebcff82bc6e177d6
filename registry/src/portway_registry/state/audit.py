"""The audit: one entry for each change that an operator or a joining node made to the cluster, and failed
authentications, counted.

Both are bounded by age and by number, each by itself: strangers who fail to authenticate push out no operator's change.
"""

import asyncio
import heapq
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from portway_runtime.backoff import jittered

from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.records import AuditRecord, decoder, encode
from portway_registry.store.contract import Delete, Entry, Put, Store

logger = logging.getLogger(__name__)

_read: Final = decoder(AuditRecord)

_DAY_MS: Final = 24 * 3_600_000
_TRIMMED_EVERY: Final = 3_600.0  # seconds


@dataclass(frozen=True, slots=True)
class _Bound:
    """How long entries below a prefix are kept, and how many of them."""

    prefix: str
    age_ms: int
    number: int


# Some 150 bytes an entry.
_CHANGES: Final = _Bound(keys.AUDIT, 365 * _DAY_MS, 20_000)
_FAILURES: Final = _Bound(keys.AUDIT_FAILURES, 30 * _DAY_MS, 2_000)


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

    async def add_failures(self, failures: Iterable[tuple[str, str]]) -> None:
        """Record failed authentications: for each address what failed there, and how often. Raises StoreUnavailable."""
        now = self._now_ms()
        records = (AuditRecord(now, address, "authentication.failed", what) for address, what in failures)
        await self._store.write(
            [Put(keys.audit_failure(now, secrets.token_hex(4)), encode(record)) for record in records]
        )

    async def page(self, size: int, *, after: str = "") -> tuple[list[AuditRecord], str]:
        """Entries, the newest first: `size` at most, from the token `after` on; and the next page's token, "" on the
        last page. Raises StoreUnavailable.

        A token is what the key of its page's last entry has below its prefix, which sorts by time.
        """
        newest = [await self._newest(bound.prefix, size + 1, after) for bound in (_CHANGES, _FAILURES)]
        found = list(heapq.merge(*newest, key=lambda one: one[0], reverse=True))
        records = [_read(entry.value) for _, entry in found[:size]]
        return records, found[size - 1][0] if len(found) > size else ""

    async def _newest(self, prefix: str, number: int, after: str) -> list[tuple[str, Entry]]:
        found = await self._store.last(prefix, number, before=prefix + after if after else None)
        return [(entry.key.removeprefix(prefix), entry) for entry in found]

    async def trim(self) -> None:
        """Delete the entries that are too old, and the oldest of those that are too many. Raises StoreUnavailable."""
        for bound in (_CHANGES, _FAILURES):
            entries = (await self._store.list(bound.prefix)).entries
            oldest = f"{bound.prefix}{self._now_ms() - bound.age_ms:013d}"
            excess = max(0, len(entries) - bound.number)
            going = [Delete(entry.key) for number, entry in enumerate(entries) if number < excess or entry.key < oldest]
            if going:
                await self._store.write(going)
                logger.info("audit trimmed", extra={"entries": len(going)})

    async def keep_trimmed(self) -> None:
        """Trim once an hour, for ever; during an outage of the store the next hour does."""
        while True:
            try:
                await self.trim()
            except StoreUnavailable as error:
                logger.warning("audit not trimmed", extra={"reason": str(error)})
            await asyncio.sleep(jittered(_TRIMMED_EVERY))
