"""The newest presence of each session in the store.

Here: writing one, so that only a later one replaces it; deleting those that no party can believe any more. Not here:
which presences are genuine and fresh.

A presence is on no lease: while an earlier one of its session could still be believed, the later one is what refutes
it, also when the node that brought it has gone.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from portway_proto.wire.limits import CLOCK_LEEWAY, PRESENCE_FRESH
from portway_proto.wire.statements import Presence
from portway_runtime.backoff import jittered

from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.records import PresenceRecord
from portway_registry.state.views import Item, PresenceView
from portway_registry.store.contract import Delete, Put, Store
from portway_registry.store.update import TRIES, revision_of

logger = logging.getLogger(__name__)

# Milliseconds after its time at which no party believes a presence, whose clock is not off by more than the leeway.
_BELIEVED_MS: Final = (PRESENCE_FRESH + 2 * CLOCK_LEEWAY) * 1000
_SWEPT_EVERY: Final = 120.0  # seconds at most; each replica sweeps
# Presences looked at before other tasks get their turn.
_PER_TURN: Final = 1_000


class Presences:
    """The presences in the store, as this replica's view shows them; the store's compare-and-swap decides."""

    def __init__(self, store: Store, view: PresenceView, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._view = view
        self._now_ms = now_ms

    def of_session(self, session_key: bytes) -> PresenceRecord | None:
        """The newest presence of a session."""
        item = self._view.of_session(session_key)
        return None if item is None else item.value

    def bytes_of_node(self, node: str) -> int:
        """The bytes of all presences that name this node."""
        return self._view.bytes_of_node(node)

    async def read(self, session_keys: Iterable[bytes]) -> dict[bytes, Item[PresenceRecord] | None]:
        """The presences of these sessions from the store itself. Raises StoreUnavailable."""
        found = await self._view.read(key.hex() for key in session_keys)
        return {bytes.fromhex(name): item for name, item in found.items()}

    async def put(self, presences: Iterable[Presence]) -> dict[bytes, PresenceRecord]:
        """Store each, unless the store has a later one of its session; returns what the store has then, by session key.

        Raises StoreUnavailable; a part may have been done then.
        """
        undone = {one.session_key: one for one in presences}
        held = {key: self._view.of_session(key) for key in undone}
        newest: dict[bytes, PresenceRecord] = {}
        for _ in range(TRIES):
            writes: list[Put] = []
            for key, one in list(undone.items()):
                current = held[key]
                if current is not None and current.value.time_ms >= one.time_ms:
                    newest[key] = current.value
                    del undone[key]
                else:
                    writes.append(Put(keys.presence(key), one.encoded, revision_of(current)))
            if not writes:
                return newest
            done = await self._store.write(writes)
            for (key, one), ok in zip(list(undone.items()), done, strict=True):
                if ok:
                    newest[key] = PresenceRecord(one.node, one.time_ms, one.encoded)
                    del undone[key]
            held = await self.read(undone)
        raise StoreUnavailable("presences changed each time they were to be written")

    async def keep_swept(self) -> None:
        """Delete for ever what no party can believe any more; during an outage of the store a later sweep does."""
        while True:
            await asyncio.sleep(jittered(_SWEPT_EVERY))
            try:
                await self.sweep()
            except StoreUnavailable as error:
                logger.warning("presences not swept", extra={"reason": str(error)})

    async def sweep(self) -> None:
        """Delete what no party can believe any more. Raises StoreUnavailable."""
        over = self._now_ms() - _BELIEVED_MS
        old: list[Item[PresenceRecord]] = []
        for number, item in enumerate(list(self._view.items.values())):
            if number % _PER_TURN == 0:
                await asyncio.sleep(0)
            if item.value.time_ms < over:
                old.append(item)
        for start in range(0, len(old), _PER_TURN):
            chunk = old[start : start + _PER_TURN]
            await self._store.write([Delete(keys.PRESENCES + item.name, item.modified) for item in chunk])
