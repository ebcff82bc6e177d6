"""The embedded store's entries and leases in memory, and a draft of the changes of a group of requests.

Here: conditions, revisions, which keys are on which lease; without I/O. Not here: the file, deadlines, watches.
"""

import heapq
from collections import defaultdict

from portway_registry.errors import LeaseLost
from portway_registry.store.contract import (
    NO_LEASE,
    Delete,
    Entry,
    Event,
    EventKind,
    LeaseId,
    Listing,
    Revision,
    Write,
)
from portway_registry.store.embedded.database import Changes, Contents


class State:
    """Entries and leases at one revision."""

    def __init__(self, contents: Contents) -> None:
        self.entries = {entry.key: entry for entry in contents.entries}
        self.leases = dict(contents.leases)
        self.revision = contents.revision
        self._keys_of: defaultdict[LeaseId, set[str]] = defaultdict(set)
        for entry in contents.entries:
            self._bind(entry)

    def listing(self, prefix: str) -> Listing:
        """All entries below a prefix, sorted by key."""
        found = sorted((e for e in self.entries.values() if e.key.startswith(prefix)), key=lambda entry: entry.key)
        return Listing(tuple(found), self.revision)

    def last(self, prefix: str, number: int, before: str | None) -> tuple[Entry, ...]:
        """The `number` entries below a prefix whose keys are last, and less than `before`; the last one first."""
        below = (
            entry
            for entry in self.entries.values()
            if entry.key.startswith(prefix) and (before is None or entry.key < before)
        )
        return tuple(heapq.nlargest(number, below, key=lambda entry: entry.key))

    def keys_of(self, lease: LeaseId) -> frozenset[str]:
        """The keys on a lease."""
        return frozenset(self._keys_of.get(lease, ()))

    def apply(self, changes: Changes) -> None:
        """Apply a draft's changes, which were committed."""
        for key, entry in changes.entries.items():
            old = self.entries.pop(key, None)
            if old is not None and old.lease != NO_LEASE:
                self._keys_of[old.lease].discard(key)
            if entry is not None:
                self.entries[key] = entry
                self._bind(entry)
        for lease, ttl in changes.leases.items():
            if ttl is None:
                self.leases.pop(lease, None)
                self._keys_of.pop(lease, None)
            else:
                self.leases[lease] = ttl
        self.revision = changes.revision

    def _bind(self, entry: Entry) -> None:
        if entry.lease != NO_LEASE:
            self._keys_of[entry.lease].add(entry.key)


class Draft:
    """The changes of a group of requests, on top of a state that does not change meanwhile."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._entries: dict[str, Entry | None] = {}
        self._leases: dict[LeaseId, int | None] = {}
        self._revision = state.revision
        self.events: list[Event] = []

    def changes(self) -> Changes:
        """The changes so far, to be committed."""
        return Changes(self._entries, self._leases, self._revision)

    def write(self, writes: tuple[Write, ...]) -> tuple[bool, ...]:
        """Do each write whose condition holds; returns for each whether it was done.

        Raises LeaseLost, with nothing done, when a lease is unknown.
        """
        for write in writes:
            if not isinstance(write, Delete) and write.lease != NO_LEASE and not self._has_lease(write.lease):
                raise LeaseLost(f"lease {write.lease:x} is unknown or has run out: grant a new one and write again")
        return tuple(map(self._write, writes))

    def grant(self, lease: LeaseId, ttl: int) -> None:
        """Add a lease of `ttl` seconds."""
        self._leases[lease] = ttl

    def end_lease(self, lease: LeaseId) -> bool:
        """End a lease and delete its keys; False when there is no such lease."""
        if not self._has_lease(lease):
            return False
        drafted = {key for key, entry in self._entries.items() if entry is not None and entry.lease == lease}
        for key in sorted(self._state.keys_of(lease) | drafted):
            entry = self._get(key)
            if entry is not None and entry.lease == lease:
                self._delete(key)
        self._leases[lease] = None
        return True

    def _write(self, write: Write) -> bool:
        old = self._get(write.key)
        if write.expected is not None and write.expected != (0 if old is None else old.modified):
            return False
        if isinstance(write, Delete):
            if old is not None:
                self._delete(write.key)
            return True
        revision = self._next()
        entry = Entry(write.key, write.value, revision if old is None else old.created, revision, write.lease)
        self._entries[write.key] = entry
        self.events.append(Event(EventKind.PUT, entry))
        return True

    def _delete(self, key: str) -> None:
        self._entries[key] = None
        self.events.append(Event(EventKind.DELETE, Entry(key, b"", Revision(0), self._next())))

    def _get(self, key: str) -> Entry | None:
        return self._entries[key] if key in self._entries else self._state.entries.get(key)

    def _has_lease(self, lease: LeaseId) -> bool:
        return (self._leases[lease] is not None) if lease in self._leases else lease in self._state.leases

    def _next(self) -> Revision:
        self._revision = Revision(self._revision + 1)
        return self._revision
