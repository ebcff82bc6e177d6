"""The embedded store's history: a bounded log of its latest events, from which watches read.

Each event has a revision of its own, so that a revision is a position in the log. Not here: how events are made.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable

from portway_registry.errors import Compacted
from portway_registry.store.contract import Event, Revision

CAPACITY = 65_536  # events; a watch that falls further behind must list again, as after compaction
_BATCH = 1_000  # events read before other tasks get their turn on the loop


class History:
    """The events after one revision, the floor, which rises as old events are dropped."""

    def __init__(self, revision: Revision, capacity: int = CAPACITY) -> None:
        """Empty at `revision`; holds at most `capacity` events."""
        self._floor = revision
        self._capacity = capacity
        self._events: list[Event] = []
        self._watches: set[asyncio.Event] = set()
        self._closed = False

    def append(self, events: Iterable[Event]) -> None:
        """Add events, each with the next revision, and wake the watches."""
        self._events.extend(events)
        self.compact(Revision(self._floor + len(self._events) - self._capacity))
        self._wake()

    def compact(self, revision: Revision) -> None:
        """Drop the events up to `revision`, as far as they are not dropped already."""
        dropped = max(0, min(revision - self._floor, len(self._events)))
        del self._events[:dropped]
        self._floor = Revision(self._floor + dropped)

    async def watch(self, prefix: str, after: Revision) -> AsyncGenerator[tuple[Event, ...], None]:
        """As Store.watch."""
        changed = asyncio.Event()
        self._watches.add(changed)
        position = after
        try:
            while not self._closed:
                changed.clear()
                batch = self._following(position)
                if not batch:
                    await changed.wait()
                    continue
                position = batch[-1].entry.modified
                below = tuple(event for event in batch if event.entry.key.startswith(prefix))
                if below:
                    yield below
        finally:
            self._watches.discard(changed)

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        self._wake()

    def _following(self, position: Revision) -> list[Event]:
        if not self._floor <= position <= self._floor + len(self._events):
            raise Compacted(self._floor)
        start = position - self._floor
        return self._events[start : start + _BATCH]

    def _wake(self) -> None:
        for changed in self._watches:
            changed.set()
