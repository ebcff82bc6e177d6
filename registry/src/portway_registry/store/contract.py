"""The contract of a store: what the registry asks of etcd, and of the embedded store alike.

A flat map from keys to values with one counter, the revision, that every change raises; changes made
together (a batch, the keys of a lease that ends) may share one. Here: the contract and its
values. Not here: what the keys mean (keys.py), how a view is kept in memory (mirror.py).

Every call may be cancelled; a write that is cancelled may or may not have happened. Every call raises
StoreUnavailable when the store does not answer within the implementation's time limit.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NewType, Protocol

Revision = NewType("Revision", int)
LeaseId = NewType("LeaseId", int)

NO_LEASE: Final = LeaseId(0)
# As the expected revision of a write: the key must not exist.
ABSENT: Final = Revision(0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as it stands. `created` and `modified` are the revisions of its first and of its last write."""

    key: str
    value: bytes
    created: Revision
    modified: Revision
    lease: LeaseId = NO_LEASE


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries below a prefix, sorted by key, as they stood at one revision."""

    entries: tuple[Entry, ...]
    revision: Revision


class EventKind(Enum):
    PUT = "put"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Event:
    """One change. For DELETE `entry` has an empty value and `modified` is the revision of the deletion."""

    kind: EventKind
    entry: Entry


@dataclass(frozen=True, slots=True)
class Put:
    """Write `value`, on condition that the key was last modified at `expected`.

    `expected` 0 means that the key must not exist; None means whatever stands there is replaced.
    `lease` ties the key to a lease: it vanishes with it. Raises LeaseLost when the lease is unknown.
    """

    key: str
    value: bytes
    expected: Revision | None = None
    lease: LeaseId = NO_LEASE


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key, on condition as in Put; removing what is not there succeeds when `expected` is None."""

    key: str
    expected: Revision | None = None


Write = Put | Delete


class Store(Protocol):
    """A revisioned map with leases and watches."""

    async def get(self, key: str) -> Entry | None:
        """The entry, or None."""
        ...

    async def list(self, prefix: str) -> Listing:
        """Everything whose key begins with `prefix`, however many, at one revision."""
        ...

    async def write(self, writes: Sequence[Write]) -> tuple[bool, ...]:
        """Do each write whose condition holds; the answer says, for each in order, whether it was done.

        Each is atomic by itself; together they need not be, but two of the same key are done in order. There
        may be any number (an implementation batches them). Where an answer was lost and the write tried
        again, a key that then stands as it was to stand counts as done. Raises LeaseLost when a Put names a
        lease that is gone; others may have been done.
        """
        ...

    async def put(self, key: str, value: bytes, *, expected: Revision | None = None, lease: LeaseId = NO_LEASE) -> bool:
        """One Put; whether it was done."""
        ...

    async def delete(self, key: str, *, expected: Revision | None = None) -> bool:
        """One Delete; whether it was done."""
        ...

    async def grant_lease(self, ttl: float) -> LeaseId:
        """A new lease that runs out `ttl` seconds (whole ones, at least 1) after its last refresh."""
        ...

    async def keep_lease(self, lease: LeaseId) -> None:
        """Refresh the lease to its full length. Raises LeaseLost when it is gone."""
        ...

    async def revoke_lease(self, lease: LeaseId) -> None:
        """End the lease now, and every key tied to it. A lease that is gone already is no error."""
        ...

    def watch(self, prefix: str, after: Revision) -> AsyncGenerator[tuple[Event, ...], None]:
        """Every change below `prefix` with a revision above `after`, in order, each once, in batches.

        It goes on until it is closed (`aclose`), through any outage of the store: it reconnects by itself
        and resumes after the last revision it delivered. A batch ends with the end of a revision. Raises
        Compacted when that revision is gone, or is one that the store has not reached (it was restored from
        a copy). A deletion by a lease that ran out is an event like any other.
        """
        ...

    async def close(self) -> None:
        """Let go of every resource; watches end. Leases live on until they run out."""
        ...
