"""Who did what: one entry for each thing an admin changed."""

import secrets

from portway_registry.state import keys
from portway_registry.state.records import AuditRecord, decoder, encode
from portway_registry.store.contract import Put, Store

_decode = decoder(AuditRecord)


def entry(*, at_ms: int, actor: str, action: str, target: str) -> Put:
    """The write that records it."""
    record = AuditRecord(at_ms=at_ms, actor=actor, action=action, target=target)
    return Put(keys.audit(at_ms, secrets.token_hex(4)), encode(record))


async def latest(store: Store, limit: int) -> list[AuditRecord]:
    """The youngest entries, the youngest first. Raises StoreUnavailable."""
    listing = await store.list(keys.AUDIT)
    return [_decode(found.value) for found in reversed(listing.entries[-limit:])]
