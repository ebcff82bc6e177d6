"""This replica's own record in the store: that it lives, which grant keys it knows, and where nodes reach its public
port.

Here: keeping the record, on a lease of its own. Not here: what others conclude from it. A replica that is cut off from
the store is gone when its lease ends.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from typing import Final

import msgspec
from portway_runtime.backoff import jittered
from portway_runtime.time_limit import time_limit

from portway_registry.errors import LeaseLost, StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.records import ReplicaRecord, encode
from portway_registry.store.contract import NO_LEASE, LeaseId, Store

logger = logging.getLogger(__name__)

# Two refreshes may be lost before the lease is.
_REFRESHES_A_LEASE: Final = 3
_PAUSE: Final = 1.0  # seconds at most between tries during an outage of the store
_LONGEST_HOST: Final = 40  # characters
_WITHDRAWN_WITHIN: Final = 1.0  # seconds


def new_replica_id() -> str:
    """The machine's name, and what tells the replicas of one machine apart."""
    return f"{socket.gethostname()[:_LONGEST_HOST] or 'registry'}-{secrets.token_hex(3)}"


class Replica:
    """Keeps the record of this replica."""

    def __init__(self, store: Store, describe: Callable[[], ReplicaRecord], *, lease_seconds: int) -> None:
        """describe: this replica as it is now; its id never changes."""
        self._store = store
        self._describe = describe
        self._lease_seconds = lease_seconds
        self._lease: LeaseId = NO_LEASE
        self._written: ReplicaRecord | None = None
        self._changed = asyncio.Event()
        self._away = False
        self._front = ""

    @property
    def id(self) -> str:
        """Another one after each start."""
        return self._describe().id

    def serves_at(self, front: str) -> None:
        """Nodes may pass connections on to this address (host:port) from now on."""
        self._front = front
        self.changed()

    async def serves_no_more(self) -> None:
        """Nodes pass nothing on here any more. In an outage of the store they notice by themselves."""
        if not self._front:
            return
        self._front = ""
        try:
            async with time_limit(_WITHDRAWN_WITHIN):
                await self.publish()
        except (StoreUnavailable, LeaseLost, TimeoutError) as error:
            logger.info("this registry's public port is not withdrawn", extra={"reason": str(error)})

    def changed(self, *_: object) -> None:
        """`describe` may return something else than before."""
        self._changed.set()

    async def publish(self) -> None:
        """Write the record, if it is not in the store as it is now. Raises StoreUnavailable, and LeaseLost for a lease
        that was lost twice."""
        try:
            await self._publish()
        except LeaseLost:  # its answer was long in coming: an outage of the store that outlasted the lease
            self._lease = NO_LEASE
            await self._publish()

    async def _publish(self) -> None:
        record = msgspec.structs.replace(self._describe(), front=self._front)
        if self._lease == NO_LEASE:
            self._lease = await self._store.grant_lease(self._lease_seconds)
            self._written = None
        if record != self._written:
            await self._store.put(keys.replica(record.id), encode(record), lease=self._lease)
            self._written = record

    async def run(self) -> None:
        """Keep the record and its lease, for ever."""
        while True:
            try:
                async with asyncio.timeout(self._lease_seconds / _REFRESHES_A_LEASE):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self._keep()

    async def close(self) -> None:
        """Take the record away; in an outage of the store its lease does."""
        lease, self._lease = self._lease, NO_LEASE
        if lease != NO_LEASE:
            try:
                await self._store.revoke_lease(lease)
            except StoreUnavailable as error:
                logger.info("this registry's record is left to its lease", extra={"reason": str(error)})

    async def _keep(self) -> None:
        try:
            if self._lease != NO_LEASE:
                await self._store.keep_lease(self._lease)
            await self.publish()
        except LeaseLost:
            self._lease = NO_LEASE
            self._changed.set()
        except StoreUnavailable as error:
            if not self._away:
                logger.warning("this registry's record is not kept", extra={"reason": str(error)})
            self._away = True
            self._changed.set()
            await asyncio.sleep(jittered(_PAUSE))
        else:
            self._away = False
