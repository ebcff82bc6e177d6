"""A store in memory that counts the work that etcd would have.

Here: the counts, in etcd's terms: writes become transactions as they do in the etcd store. Not here: what is written
(registry_costs.py).
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, fields

from portway_registry.store.contract import (
    NO_LEASE,
    Delete,
    Entry,
    Event,
    LeaseId,
    Listing,
    Put,
    Revision,
    Store,
    StoreHealth,
    Write,
)
from portway_registry.store.etcd.messages import transaction, transactions


@dataclass(slots=True)
class Work:
    """Work of the store. `event_bytes` are keys and values; `written_bytes` are transactions as they are sent to
    etcd."""

    reads: int = 0
    transactions: int = 0
    writes: int = 0
    lease_calls: int = 0
    written_bytes: int = 0
    events: int = 0
    event_bytes: int = 0

    def since(self, before: "Work") -> "Work":
        return Work(*(getattr(self, one.name) - getattr(before, one.name) for one in fields(Work)))

    def copy(self) -> "Work":
        return self.since(Work())


class CountingStore:
    """Counts the calls of the Store contract. `called` is called after each counted call and each event."""

    def __init__(self, store: Store, called: Callable[[], None]) -> None:
        self._store = store
        self._called = called
        self.work = Work()

    async def get(self, key: str) -> Entry | None:
        entry = await self._store.get(key)
        self.work.reads += 1
        self._called()
        return entry

    async def list(self, prefix: str) -> Listing:
        listing = await self._store.list(prefix)
        self.work.reads += 1
        self._called()
        return listing

    async def last(self, prefix: str, number: int, *, before: str | None = None) -> tuple[Entry, ...]:
        entries = await self._store.last(prefix, number, before=before)
        self.work.reads += 1
        self._called()
        return entries

    async def write(self, writes: Sequence[Write]) -> tuple[bool, ...]:
        done = await self._store.write(writes)
        for wave in transactions(writes):
            for span in wave:
                self.work.transactions += 1
                self.work.written_bytes += transaction(writes[span.start : span.stop]).ByteSize()
        self.work.writes += sum(done)
        self._called()
        return done

    async def put(self, key: str, value: bytes, *, expected: Revision | None = None, lease: LeaseId = NO_LEASE) -> bool:
        return (await self.write([Put(key, value, expected, lease)]))[0]

    async def delete(self, key: str, *, expected: Revision | None = None) -> bool:
        return (await self.write([Delete(key, expected)]))[0]

    async def grant_lease(self, ttl: float) -> LeaseId:
        self.work.lease_calls += 1
        return await self._store.grant_lease(ttl)

    async def keep_lease(self, lease: LeaseId) -> None:
        self.work.lease_calls += 1
        await self._store.keep_lease(lease)

    async def revoke_lease(self, lease: LeaseId) -> None:
        self.work.lease_calls += 1
        await self._store.revoke_lease(lease)

    async def watch(self, prefix: str, after: Revision) -> AsyncGenerator[tuple[Event, ...], None]:
        async for batch in self._store.watch(prefix, after):
            self.work.events += len(batch)
            self.work.event_bytes += sum(len(event.entry.key) + len(event.entry.value) for event in batch)
            self._called()
            yield batch

    async def health(self) -> StoreHealth:
        return await self._store.health()

    async def close(self) -> None:
        await self._store.close()
