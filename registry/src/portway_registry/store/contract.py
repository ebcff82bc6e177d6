"""The contract of a store, which etcd and the embedded store both fulfil.

A store is a flat map from keys to values with one counter, the revision, that every change raises; changes made
together (a batch, the keys of a lease that ends) may share one. Here: the contract and its values. Not here: what the
keys mean.

Every call may be cancelled; a cancelled write may or may not have happened. Every call raises StoreUnavailable when the
store does not answer within the implementation's time limit.
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
    """A key and its value. `created` and `modified` are the revisions of its first and of its last write."""

    key: str
    value: bytes
    created: Revision
    modified: Revision
    lease: LeaseId = NO_LEASE


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries below a prefix, sorted by key, at one revision."""

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

    expected: ABSENT means that the key must not exist, None that any value is replaced. lease: the key is deleted when
    this lease ends; writing raises LeaseLost when the lease is unknown.
    """

    key: str
    value: bytes
    expected: Revision | None = None
    lease: LeaseId = NO_LEASE


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key, on condition as in Put; with `expected` None deleting an absent key succeeds."""

    key: str
    expected: Revision | None = None


Write = Put | Delete


@dataclass(frozen=True, slots=True)
class MemberHealth:
    """One member of the store: one of etcd, or the file of an embedded store.

    endpoint: where it was asked, or the file's path; "" for one that etcd names and the registry has no endpoint of.
    failure: why it did not answer. size, used: bytes of its database, and those of them that are in use. applied: its
    revision in its own log. round_trip: seconds.
    """

    name: str = ""
    endpoint: str = ""
    failure: str = ""
    version: str = ""
    size: int = 0
    used: int = 0
    leads: bool = False
    learns: bool = False
    applied: int = 0
    round_trip: float = 0.0
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How a store is. `failure`: why it does not answer as a whole. disk_free: bytes, of an embedded store's disk."""

    kind: str
    members: tuple[MemberHealth, ...]
    failure: str = ""
    disk_free: int = 0


class Store(Protocol):
    """A revisioned map with leases and watches."""

    async def get(self, key: str) -> Entry | None:
        """The entry, or None."""
        ...

    async def list(self, prefix: str) -> Listing:
        """All entries whose key begins with `prefix`, however many, at one revision."""
        ...

    async def last(self, prefix: str, number: int, *, before: str | None = None) -> tuple[Entry, ...]:
        """The `number` entries below `prefix` whose keys are last, the last one first, at one revision; with `before`,
        which begins with `prefix`, of those whose keys are less. No other entry is sent."""
        ...

    async def write(self, writes: Sequence[Write]) -> tuple[bool, ...]:
        """Do each write whose condition holds; returns for each, in order, whether it was done.

        Each is atomic by itself; together they need not be, but two of the same key are done in order. Any number may
        be given; an implementation batches them. Where an answer was lost and the write tried again, a key that has the
        intended value then counts as done. Raises LeaseLost when a Put names a lease that is gone; others may have been
        done.
        """
        ...

    async def put(self, key: str, value: bytes, *, expected: Revision | None = None, lease: LeaseId = NO_LEASE) -> bool:
        """One Put; returns whether it was done."""
        ...

    async def delete(self, key: str, *, expected: Revision | None = None) -> bool:
        """One Delete; returns whether it was done."""
        ...

    async def grant_lease(self, ttl: float) -> LeaseId:
        """A new lease that ends `ttl` seconds (rounded up, at least 1) after its last refresh."""
        ...

    async def keep_lease(self, lease: LeaseId) -> None:
        """Refresh the lease to its full length. Raises LeaseLost when it is gone."""
        ...

    async def revoke_lease(self, lease: LeaseId) -> None:
        """End the lease now, and delete every key on it. A lease that is gone already is not an error."""
        ...

    def watch(self, prefix: str, after: Revision) -> AsyncGenerator[tuple[Event, ...], None]:
        """Every change below `prefix` with a revision above `after`, in order, each once, in batches.

        It goes on until it is closed (`aclose`), through any outage of the store: it reconnects by itself and resumes
        after the last revision it delivered. A batch never ends in the middle of a revision. Deletions by a lease that
        ended are events like any other. Raises Compacted when that revision is gone, or when the store has not reached
        it (it was restored from a copy).
        """
        ...

    async def health(self) -> StoreHealth:
        """How the store is, member by member; a member that does not answer is told as such. Raises nothing."""
        ...

    async def close(self) -> None:
        """Release every resource; watches end. Leases live on until they run out."""
        ...
