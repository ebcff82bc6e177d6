"""Optimistic updates: read a key, decide, write unless another writer came first; then begin again.

Here: the three forms in which the registry changes a single key. Not here: batches of many keys, whose conflicts are
retried key by key by their callers.

All raise StoreUnavailable when the store does not answer. A cancelled call may or may not have written.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from portway_registry.errors import StoreError, StoreUnavailable
from portway_registry.store.contract import ABSENT, Entry, Revision, Store

R = TypeVar("R")

# A key that changes under each of this many tries is contended, and the update fails.
TRIES: Final = 8


class Stored(Protocol):
    """Anything that says at which revision its key was last written."""

    @property
    def modified(self) -> Revision: ...


def revision_of(found: Stored | None) -> Revision:
    """The `expected` revision of a write that replaces `found`, or creates the key when it is None."""
    return ABSENT if found is None else found.modified


@dataclass(frozen=True, slots=True)
class Decision(Generic[R]):
    """What to write to a key, None for nothing, or whether to delete it; and what the caller gets when that is done."""

    result: R
    value: bytes | None = None
    deletes: bool = False


async def update(store: Store, key: str, decide: Callable[[Entry | None], Awaitable[Decision[R]]], contended: str) -> R:
    """Write what `decide` makes of the key's entry, and return its result.

    `decide` is called again with the new entry when another writer came first; what it raises ends the update with
    nothing written. Raises StoreUnavailable with the text `contended` after TRIES tries.
    """
    for _ in range(TRIES):
        entry = await store.get(key)
        decision = await decide(entry)
        if await _carried_out(store, key, entry, decision):
            return decision.result
    raise StoreUnavailable(contended)


async def _carried_out(store: Store, key: str, before: Entry | None, decision: Decision[R]) -> bool:
    """False when another writer came first."""
    if decision.deletes:
        return before is None or await store.delete(key, expected=before.modified)
    return decision.value is None or await store.put(key, decision.value, expected=revision_of(before))


async def create(store: Store, make: Callable[[], tuple[str, bytes, R]], contended: str) -> R:
    """Write a value under a key that is free. `make` proposes a key, its value and what the caller gets then.

    Raises StoreUnavailable with the text `contended` when none of TRIES proposed keys was free.
    """
    for _ in range(TRIES):
        key, value, result = make()
        if await store.put(key, value, expected=ABSENT):
            return result
    raise StoreUnavailable(contended)


async def get_or_create(store: Store, key: str, make: Callable[[], bytes]) -> tuple[bytes, bool]:
    """The key's value, and whether this call created it with what `make` returns.

    Of callers that come at once, at any replica, one creates it and all get the same value. Raises StoreError when the
    key is deleted meanwhile.
    """
    entry = await store.get(key)
    if entry is not None:
        return entry.value, False
    value = make()
    if await store.put(key, value, expected=ABSENT):
        return value, True
    entry = await store.get(key)
    if entry is None:
        raise StoreError(f"{key} vanished from the store while it was read")
    return entry.value, False
