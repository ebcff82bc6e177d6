"""The embedded store: the contract of a store, with the state in memory and in a SQLite file.

Here: the queue of requests and their group commit, the deadlines of leases. Not here: what a write does, the file's
tables, watches.

One task decides requests one after the other, commits all that wait in one transaction, and only then shows them to
readers and watches: whatever was read is on the disk. The commit runs in a thread; the loop goes on.

Leases are in the file, their deadlines are not: on opening, each lease has its full TTL again, so that a restart of the
registry loses no node that resumes its lease by id.
"""

import asyncio
import logging
import math
import secrets
import shutil
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from portway_runtime.errors import NoThread
from portway_runtime.tasks import Tasks, fail
from portway_runtime.threads import single_thread

from portway_registry.errors import LeaseLost, StoreError, StoreFull, StoreUnavailable
from portway_registry.store.contract import (
    NO_LEASE,
    Delete,
    Entry,
    Event,
    LeaseId,
    Listing,
    MemberHealth,
    Put,
    Revision,
    StoreHealth,
    Write,
)
from portway_registry.store.embedded.database import Changes, Database, is_full
from portway_registry.store.embedded.history import CAPACITY, History
from portway_registry.store.embedded.state import Draft, State

logger = logging.getLogger(__name__)

T = TypeVar("T")

_GROUP = 256  # requests at most in one transaction; others wait for the next, so that no caller waits long
_PAUSE_AFTER_FAILURE = 1.0  # seconds until due leases are tried again after a failed commit


@dataclass(frozen=True, slots=True)
class _Request(Generic[T]):
    decide: Callable[[Draft], T]
    done: asyncio.Future[T]


class EmbeddedStore:
    """A Store in this process. Needs a running loop."""

    def __init__(
        self,
        path: Path | None,
        *,
        on_failure: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
        history: int = CAPACITY,
    ) -> None:
        """Open the file `path` and load it; with None all is in memory. Raises ConfigError when it cannot be used, and
        NoThread.

        on_failure: called when a task of the store failed; it is unusable then. history: events held for watches.
        """
        self._clock = clock
        self._path = path
        self._database = Database(path)
        contents = self._database.load()
        try:
            self._thread = single_thread("store")
        except NoThread:
            self._database.close()
            raise
        self._state = State(contents)
        self._history = History(contents.revision, history)
        self._deadlines = {lease: clock() + ttl for lease, ttl in contents.leases.items()}
        self._ending: set[LeaseId] = set()
        self._granted = asyncio.Event()
        self._requests: asyncio.Queue[_Request[object]] = asyncio.Queue()
        self._closed = False
        self._tasks = Tasks("embedded store", on_failure=on_failure)
        self._tasks.spawn(self._decide_requests(), name="decide requests")
        self._tasks.spawn(self._time_leases(), name="time leases")

    async def get(self, key: str) -> Entry | None:
        self._check_open()
        return self._state.entries.get(key)

    async def list(self, prefix: str) -> Listing:
        self._check_open()
        return self._state.listing(prefix)

    async def last(self, prefix: str, number: int, *, before: str | None = None) -> tuple[Entry, ...]:
        self._check_open()
        return self._state.last(prefix, number, before)

    async def write(self, writes: Sequence[Write]) -> tuple[bool, ...]:
        wanted = tuple(writes)
        return await self._request(lambda draft: draft.write(wanted))

    async def put(self, key: str, value: bytes, *, expected: Revision | None = None, lease: LeaseId = NO_LEASE) -> bool:
        return (await self.write([Put(key, value, expected, lease)]))[0]

    async def delete(self, key: str, *, expected: Revision | None = None) -> bool:
        return (await self.write([Delete(key, expected)]))[0]

    async def grant_lease(self, ttl: float) -> LeaseId:
        lease, length = LeaseId(secrets.randbits(62) + 1), max(1, math.ceil(ttl))
        await self._request(lambda draft: draft.grant(lease, length))
        return lease

    async def keep_lease(self, lease: LeaseId) -> None:
        """As in the contract; a lease that is overdue but has not ended yet is refreshed."""
        self._check_open()
        if lease not in self._deadlines or lease in self._ending:
            raise LeaseLost(f"lease {lease:x} is unknown or has run out: grant a new one")
        self._deadlines[lease] = self._clock() + self._state.leases[lease]

    async def revoke_lease(self, lease: LeaseId) -> None:
        await self._request(lambda draft: self._end(draft, [lease]))

    async def end_due_leases(self) -> None:
        """End the leases whose deadline has passed; the store does this by itself when the first is due."""
        await self._request(
            lambda draft: self._end(draft, [lease for lease, due in self._deadlines.items() if due <= self._clock()])
        )

    def watch(self, prefix: str, after: Revision) -> AsyncGenerator[tuple[Event, ...], None]:
        return self._history.watch(prefix, after)

    async def compact(self, revision: Revision) -> None:
        """Drop the history up to `revision`: watches from before it raise Compacted."""
        self._check_open()
        if revision > self._state.revision:
            raise StoreError(f"revision {revision} has not been reached: compact up to {self._state.revision} at most")
        self._history.compact(revision)

    async def health(self) -> StoreHealth:
        if self._path is None:
            return StoreHealth("embedded", (MemberHealth(endpoint="memory", leads=True),))
        path = str(self._path)
        try:
            size, free = self._path.stat().st_size, shutil.disk_usage(self._path.parent).free
        except OSError as error:
            failure = f"{path} cannot be looked at: {error.strerror}"
            return StoreHealth("embedded", (MemberHealth(endpoint=path, failure=failure, leads=True),), failure)
        return StoreHealth("embedded", (MemberHealth(endpoint=path, size=size, used=size, leads=True),), disk_free=free)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._history.close()
        await self._tasks.close()
        while not self._requests.empty():
            self._fail([self._requests.get_nowait()], "the store was closed")
        # A commit that was running when its task ended is finished first: there is one thread.
        await asyncio.get_running_loop().run_in_executor(self._thread, self._database.close)
        self._thread.shutdown()

    async def _request(self, decide: Callable[[Draft], T]) -> T:
        self._check_open()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._requests.put_nowait(_Request(decide, done))  # type: ignore[arg-type]  # the queue holds any T
        return await done

    async def _decide_requests(self) -> None:
        while True:
            group = [await self._requests.get()]
            while len(group) < _GROUP and not self._requests.empty():
                group.append(self._requests.get_nowait())
            try:
                await self._commit(group)
            except BaseException:
                self._fail(group, "the store was closed while it wrote")
                raise
            finally:
                self._ending.clear()

    async def _commit(self, group: Sequence[_Request[object]]) -> None:
        """Decide a group, commit it, show it to readers, answer it."""
        draft = Draft(self._state)
        answers: list[tuple[_Request[object], object]] = []
        for request in group:
            try:
                answers.append((request, request.decide(draft)))
            except LeaseLost as error:
                fail(request.done, error)
        changes = draft.changes()
        if changes.entries or changes.leases:
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._database.commit, changes)
            except sqlite3.Error as error:
                self._not_written(group, error)
                return
            self._show(changes, draft.events)
        for request, answer in answers:
            if not request.done.done():
                request.done.set_result(answer)

    def _show(self, changes: Changes, events: Sequence[Event]) -> None:
        self._state.apply(changes)
        for lease, ttl in changes.leases.items():
            if ttl is None:
                self._deadlines.pop(lease, None)
            else:
                self._deadlines[lease] = self._clock() + ttl
                self._granted.set()
        self._history.append(events)

    def _end(self, draft: Draft, leases: Sequence[LeaseId]) -> None:
        self._ending.update(lease for lease in leases if draft.end_lease(lease))

    async def _time_leases(self) -> None:
        while True:
            self._granted.clear()
            due = min(self._deadlines.values(), default=None)
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                    await self._granted.wait()
            except TimeoutError:
                await self._end_due_or_pause()

    async def _end_due_or_pause(self) -> None:
        try:
            await self.end_due_leases()
        except StoreUnavailable:
            await asyncio.sleep(_PAUSE_AFTER_FAILURE)

    def _not_written(self, group: Sequence[_Request[object]], error: sqlite3.Error) -> None:
        logger.error("store file not written", extra={"file": str(self._path), "reason": str(error)})
        if is_full(error):
            self._fail(group, f"{self._path} cannot grow ({error}): make room on its disk", StoreFull)
        else:
            self._fail(group, f"the store's file could not be written ({error}): look at the disk")

    def _fail(
        self, group: Sequence[_Request[object]], reason: str, kind: type[StoreUnavailable] = StoreUnavailable
    ) -> None:
        for request in group:
            fail(request.done, kind(reason))

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store was closed")
