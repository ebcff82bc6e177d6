"""A view in memory of everything below a prefix, kept up to date by a watch.

Here: listing, watching, listing again after compaction, and telling subscribers each change once. Not here:
what the entries mean.

While the store is away the view stays as it was: only a deletion that the store tells of, or a listing that
lacks a key, removes one.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType

from portway_runtime.tasks import Tasks

from portway_registry.errors import Compacted, StoreUnavailable
from portway_registry.store.contract import Entry, EventKind, Listing, Revision, Store

logger = logging.getLogger(__name__)

Subscriber = Callable[[Entry | None, Entry | None], None]

_PAUSE = 1.0  # seconds, at most, between listings that fail; each has the store's own time limit besides


class Mirror:
    """The entries below a prefix, as of a moment ago."""

    def __init__(self, store: Store, prefix: str, *, on_failure: Callable[[BaseException], None]) -> None:
        """`on_failure` is told when the view is no longer kept: a subscriber raised, or the store refused."""
        self._store = store
        self._prefix = prefix
        self._entries: dict[str, Entry] = {}
        self._revision = Revision(0)
        self._subscribers: list[Subscriber] = []
        self._moved = asyncio.Event()
        self._tasks = Tasks(f"mirror of {prefix}", on_failure=on_failure)
        self.entries: Mapping[str, Entry] = MappingProxyType(self._entries)

    @property
    def revision(self) -> Revision:
        """The last revision that the view has seen; later ones need not concern it."""
        return self._revision

    async def start(self) -> None:
        """List, and watch from there on. Subscribers are told of what is listed. Raises StoreUnavailable."""
        self._take(await self._store.list(self._prefix))
        self._tasks.spawn(self._follow(), name="follow")

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber(old, new)` at each change from now on, the view being changed already.

        `old` None: the key is new; `new` None: it is gone. It must not raise: what it cannot read it should
        log and pass over. Returns what ends it.
        """
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber) if subscriber in self._subscribers else None

    async def settled(self, revision: Revision) -> None:
        """Wait until the view shows every change below the prefix up to `revision`.

        Asks the store when the view has not heard of `revision` by itself. Raises StoreUnavailable.
        """
        if self._revision >= revision:
            return
        listing = await self._store.list(self._prefix)
        while not self._shows(listing):
            self._moved.clear()
            await self._moved.wait()

    async def close(self) -> None:
        """Stop watching; the view stays as it is."""
        await self._tasks.close()

    async def _follow(self) -> None:
        while True:
            try:
                async with aclosing(self._store.watch(self._prefix, self._revision)) as batches:
                    async for batch in batches:
                        for event in batch:
                            self._set(event.entry.key, event.entry if event.kind is EventKind.PUT else None)
                        self._moved_to(batch[-1].entry.modified)
                return  # the store was closed
            except Compacted:
                logger.info("view listed again after compaction", extra={"prefix": self._prefix})
                await self._list_again()

    async def _list_again(self) -> None:
        """Make the view what the store holds, as soon as the store answers."""
        while True:
            try:
                self._take(await self._store.list(self._prefix))
                return
            except StoreUnavailable as error:
                logger.warning("view not listed", extra={"prefix": self._prefix, "reason": str(error)})
                await asyncio.sleep(random.uniform(_PAUSE / 2, _PAUSE))  # noqa: S311 - spreads load

    def _take(self, listing: Listing) -> None:
        """Tell the differences between the view and a listing as changes."""
        listed = {entry.key for entry in listing.entries}
        for key in [key for key in self._entries if key not in listed]:
            self._set(key, None)
        for entry in listing.entries:
            if self._entries.get(entry.key) != entry:
                self._set(entry.key, entry)
        self._moved_to(listing.revision)

    def _set(self, key: str, new: Entry | None) -> None:
        old = self._entries.pop(key, None)
        if new is not None:
            self._entries[key] = new
        if old is None and new is None:
            return
        for subscriber in tuple(self._subscribers):
            subscriber(old, new)

    def _moved_to(self, revision: Revision) -> None:
        self._revision = revision
        self._moved.set()

    def _shows(self, listing: Listing) -> bool:
        """Whether the view is as new as a listing, or newer."""
        if self._revision >= listing.revision:
            return True
        listed = {entry.key: entry.modified for entry in listing.entries}
        newest = max(listed.values(), default=Revision(0))
        return newest <= self._revision and all(key in listed for key in self._entries)
