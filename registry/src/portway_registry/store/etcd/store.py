"""The etcd store: the contract of a store in etcd's requests.

Here: which request each call sends. Not here: retries, the messages, watches. etcd must compact old revisions by itself
(`--auto-compaction-retention`); the registry does not do it.
"""

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

from portway_registry.errors import LeaseLost, StoreUnavailable
from portway_registry.store.contract import (
    NO_LEASE,
    Delete,
    Entry,
    Event,
    LeaseId,
    Listing,
    Put,
    Revision,
    StoreHealth,
    Write,
)
from portway_registry.store.etcd.calls import Metadata, Refused, ask
from portway_registry.store.etcd.health import health
from portway_registry.store.etcd.members import Member, Members
from portway_registry.store.etcd.messages import entry_of, outcomes, prefix_range, transaction, transactions
from portway_registry.store.etcd.watch import watch
from portway_registry.store.etcd_api import rpc_pb2
from portway_registry.store.spec import EtcdSpec

T = TypeVar("T")

_PAGE = 1_000  # entries in one answer of a listing: under 1 MiB with values of up to 1 KiB
_READS = 3  # tries of a read of several pages
_TRANSACTIONS_AT_ONCE = 4  # etcd commits concurrent ones with one fsync; more would only queue there


class EtcdStore:
    """A Store on an etcd cluster. Needs a running loop; nothing is sent before the first call."""

    def __init__(self, spec: EtcdSpec) -> None:
        """Read the files that `spec` names. Raises ConfigError for one that cannot be used."""
        self._members = Members(spec)

    async def get(self, key: str) -> Entry | None:
        request = rpc_pb2.RangeRequest(key=key.encode())
        answer = await ask(self._members, lambda member, metadata: member.kv.Range(request, metadata=metadata))
        return entry_of(answer.response.kvs[0]) if answer.response.kvs else None

    async def list(self, prefix: str) -> Listing:
        return await _read_again(lambda: self._list(prefix))

    async def last(self, prefix: str, number: int, *, before: str | None = None) -> tuple[Entry, ...]:
        return await _read_again(lambda: self._last(prefix, number, before))

    async def write(self, writes: Sequence[Write]) -> tuple[bool, ...]:
        writes = tuple(writes)
        done = [False] * len(writes)
        slots = asyncio.Semaphore(_TRANSACTIONS_AT_ONCE)

        async def commit(span: range) -> None:
            async with slots:
                done[span.start : span.stop] = await self._commit(writes[span.start : span.stop])

        for wave in transactions(writes):
            results = await asyncio.gather(*map(commit, wave), return_exceptions=True)
            failures = [result for result in results if result is not None]
            for failure in sorted(failures, key=lambda failure: not isinstance(failure, LeaseLost)):
                raise failure
        return tuple(done)

    async def put(self, key: str, value: bytes, *, expected: Revision | None = None, lease: LeaseId = NO_LEASE) -> bool:
        return (await self.write([Put(key, value, expected, lease)]))[0]

    async def delete(self, key: str, *, expected: Revision | None = None) -> bool:
        return (await self.write([Delete(key, expected)]))[0]

    async def grant_lease(self, ttl: float) -> LeaseId:
        lease = LeaseId(secrets.randbits(62) + 1)  # chosen here, so that a retried request grants the same lease
        request = rpc_pb2.LeaseGrantRequest(ID=lease, TTL=max(1, math.ceil(ttl)))
        try:
            await ask(self._members, lambda member, metadata: member.lease.LeaseGrant(request, metadata=metadata))
        except Refused as error:
            if "lease already exists" not in error.details:
                raise
        return lease

    async def keep_lease(self, lease: LeaseId) -> None:
        async def call(member: Member, metadata: Metadata) -> rpc_pb2.LeaseKeepAliveResponse:
            stream = member.lease.LeaseKeepAlive(metadata=metadata)
            try:
                await stream.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
                response = await stream.read()
                await stream.done_writing()
            finally:
                stream.cancel()
            if not isinstance(response, rpc_pb2.LeaseKeepAliveResponse):
                raise ConnectionResetError("etcd ended the stream")
            return response

        if (await ask(self._members, call)).response.TTL <= 0:
            raise LeaseLost(f"lease {lease:x} is unknown to etcd or has run out: grant a new one")

    async def revoke_lease(self, lease: LeaseId) -> None:
        request = rpc_pb2.LeaseRevokeRequest(ID=lease)
        try:
            await ask(self._members, lambda member, metadata: member.lease.LeaseRevoke(request, metadata=metadata))
        except LeaseLost:
            pass

    def watch(self, prefix: str, after: Revision) -> AsyncGenerator[tuple[Event, ...], None]:
        return watch(self._members, prefix, after)

    async def compact(self, revision: Revision) -> None:
        """Make etcd delete revisions before `revision`; nothing when it has done so already."""
        request = rpc_pb2.CompactionRequest(revision=revision)
        try:
            await ask(self._members, lambda member, metadata: member.kv.Compact(request, metadata=metadata))
        except Refused as error:
            if not error.compacted:
                raise

    async def health(self) -> StoreHealth:
        return await health(self._members)

    async def close(self) -> None:
        await self._members.close()

    async def _list(self, prefix: str) -> Listing:
        start, end = prefix_range(prefix)
        entries: list[Entry] = []
        revision = 0
        while True:
            page = await self._page(rpc_pb2.RangeRequest(key=start, range_end=end, limit=_PAGE, revision=revision))
            revision = revision or page.header.revision
            entries.extend(map(entry_of, page.kvs))
            if not page.more:
                return Listing(tuple(entries), Revision(revision))
            start = page.kvs[-1].key + b"\0"

    async def _last(self, prefix: str, number: int, before: str | None) -> tuple[Entry, ...]:
        start, end = prefix_range(prefix)
        if before is not None:
            end = before.encode()
        entries: list[Entry] = []
        revision, more = 0, True
        while more and len(entries) < number:
            page = await self._page(
                rpc_pb2.RangeRequest(
                    key=start,
                    range_end=end,
                    limit=min(_PAGE, number - len(entries)),
                    revision=revision,
                    sort_order=rpc_pb2.RangeRequest.DESCEND,
                    sort_target=rpc_pb2.RangeRequest.KEY,
                )
            )
            revision, more = revision or page.header.revision, page.more
            entries.extend(map(entry_of, page.kvs))
            end = page.kvs[-1].key if page.kvs else end
        return tuple(entries)

    async def _page(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        answer = await ask(self._members, lambda member, metadata: member.kv.Range(request, metadata=metadata))
        return answer.response

    async def _commit(self, writes: Sequence[Write]) -> Sequence[bool]:
        request = transaction(writes)
        answer = await ask(self._members, lambda member, metadata: member.kv.Txn(request, metadata=metadata))
        return outcomes(writes, answer.response, retried=answer.retried)


async def _read_again(read: Callable[[], Awaitable[T]]) -> T:
    """Do a read of several pages, again from its beginning when its revision is compacted meanwhile."""
    for _ in range(_READS):
        try:
            return await read()
        except Refused as error:
            if not error.compacted:
                raise
    raise StoreUnavailable("etcd compacted faster than it could be read: compact less often")
