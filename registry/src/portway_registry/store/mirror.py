"""A copy in memory of everything below a prefix, kept up to date by a watch.

Here: listing, watching, listing again after compaction, and notifying subscribers of each change once. Not here: what
the entries mean.

During an outage of the store the mirror stays as it was: only a deletion event, or a listing without the key, removes
an entry.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Final

from portway_runtime.backoff import jittered
from portway_runtime.tasks import Tasks

from portway_registry.errors import Compacted, StoreUnavailable
from portway_registry.store.contract import Entry, EventKind, Listing, Revision, Store

logger = logging.getLogger(__name__)

Subscriber = Callable[[Entry | None, Entry | None], None]

_PAUSE: Final = 1.0  # seconds at most between failed listings; each has the store's own time limit besides


class Mirror:
    """The entries below a prefix, some milliseconds behind the store."""

    def __init__(self, store: Store, prefix: str, *, on_failure: Callable[[BaseException], None]) -> None:
        """`on_failure` is called when following the store failed: a subscriber raised, or the store refused."""
        self.prefix = prefix
        self._store = store
        self._entries: dict[str, Entry] = {}
        self._revision = Revision(0)
        self._subscribers: list[Subscriber] = []
        self._advanced = asyncio.Event()
        self._tasks = Tasks(f"mirror of {prefix}", on_failure=on_failure)
        self.entries: Mapping[str, Entry] = MappingProxyType(self._entries)

    @property
    def revision(self) -> Revision:
        """The last revision the mirror has seen. Later ones may exist that changed nothing below the prefix."""
        return self._revision

    async def start(self) -> None:
        """List, notify subscribers of every entry, and watch from there on; nothing when it has started already.

        Raises StoreUnavailable, and may be called again then.
        """
        if len(self._tasks):
            return
        self._replace(await self._store.list(self.prefix))
        self._tasks.spawn(self._follow(), name="follow")

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber(old, new)` after each change from now on, with the mirror changed already.

        `old` None: the key is new; `new` None: it was deleted. It must not raise: a value that it cannot read it should
        log and skip. Returns a function that unsubscribes; it may be called again.
        """
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber) if subscriber in self._subscribers else None

    async def caught_up(self, key: str) -> None:
        """Wait until the mirror shows this key as the store has it now, or as it is later.

        Costs one read of the key. Raises StoreUnavailable.
        """
        known = self._entries.get(key)
        entry = await self._store.get(key)
        if entry is not None:
            await self.reached(entry.modified)
            return
        while known is not None and self._holds(known):
            await self._advance()

    async def reached(self, revision: Revision) -> None:
        """Wait until the mirror has seen `revision`, at which a key below the prefix changed."""
        while self._revision < revision:
            await self._advance()

    async def close(self) -> None:
        """Stop watching; the entries stay as they are."""
        await self._tasks.close()

    async def _follow(self) -> None:
        while True:
            try:
                async with aclosing(self._store.watch(self.prefix, self._revision)) as batches:
                    async for batch in batches:
                        for event in batch:
                            self._set(event.entry.key, event.entry if event.kind is EventKind.PUT else None)
                        self._advance_to(batch[-1].entry.modified)
                return  # the store was closed
            except Compacted:
                logger.info("mirror listed again after compaction", extra={"prefix": self.prefix})
                await self._list_again()

    async def _list_again(self) -> None:
        """Replace the mirror by a listing, as soon as the store answers."""
        while True:
            try:
                self._replace(await self._store.list(self.prefix))
                return
            except StoreUnavailable as error:
                logger.warning("mirror not listed", extra={"prefix": self.prefix, "reason": str(error)})
                await asyncio.sleep(jittered(_PAUSE))

    def _replace(self, listing: Listing) -> None:
        """Make the mirror the listing, each difference being one change."""
        listed = {entry.key for entry in listing.entries}
        for key in [key for key in self._entries if key not in listed]:
            self._set(key, None)
        for entry in listing.entries:
            if self._entries.get(entry.key) != entry:
                self._set(entry.key, entry)
        self._advance_to(listing.revision)

    def _set(self, key: str, new: Entry | None) -> None:
        old = self._entries.pop(key, None)
        if new is not None:
            self._entries[key] = new
        if old is None and new is None:
            return
        for subscriber in tuple(self._subscribers):
            subscriber(old, new)

    def _advance_to(self, revision: Revision) -> None:
        self._revision = revision
        self._advanced.set()

    async def _advance(self) -> None:
        """Wait for the next batch of changes."""
        self._advanced.clear()
        await self._advanced.wait()

    def _holds(self, known: Entry) -> bool:
        """Whether the key still exists as it did, changed or not: not deleted, nor deleted and created again."""
        entry = self._entries.get(known.key)
        return entry is not None and entry.created == known.created
