"""A replica's own record: written with each change, kept on its lease, and taken away at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import pytest
from portway_registry.errors import StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.records import ReplicaRecord, decoder
from portway_registry.state.replica import Replica, new_replica_id
from portway_registry.store.contract import LeaseId, Revision
from portway_registry.store.embedded import EmbeddedStore

PATIENCE = 20.0


class Stage:
    """A replica that knows some keys."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store
        self.known: tuple[str, ...] = ("1",)
        self.replica = Replica(store, lambda: ReplicaRecord("r1", 1, self.known), lease_seconds=1)

    async def stored(self) -> ReplicaRecord | None:
        entry = await self.store.get(keys.replica("r1"))
        return None if entry is None else decoder(ReplicaRecord)(entry.value)

    async def revision(self) -> Revision:
        return (await self.store.list(keys.REPLICAS)).revision

    async def until_known(self, *known: str, after: Revision) -> None:
        """Wait until the record says this, changed after that revision."""
        async with asyncio.timeout(PATIENCE), aclosing(self.store.watch(keys.REPLICAS, after)) as batches:
            async for _ in batches:
                stored = await self.stored()
                if stored is not None and stored.grant_keys == known:
                    return


@pytest.fixture
async def stage(memory: EmbeddedStore) -> AsyncIterator[Stage]:
    stage = Stage(memory)
    await stage.replica.publish()
    running = asyncio.ensure_future(stage.replica.run())
    yield stage
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_it_follows_what_the_replica_knows(stage: Stage) -> None:
    """As soon as that changes; at the end it is gone at once, and not with its lease."""
    before = await stage.revision()
    stage.known = ("1", "2")
    stage.replica.changed()
    await stage.until_known("1", "2", after=before)
    await stage.replica.close()
    assert await stage.stored() is None


async def test_it_says_where_nodes_reach_its_public_port(stage: Stage) -> None:
    """Until it stops to serve there: before the port is closed, and again only after that."""
    assert (await stage.stored()) == ReplicaRecord("r1", 1, ("1",))
    stage.replica.serves_at("192.0.2.1:7400")
    await stage.replica.publish()
    assert (await stage.stored()) == ReplicaRecord("r1", 1, ("1",), front="192.0.2.1:7400")
    await stage.replica.serves_no_more()
    assert (await stage.stored()) == ReplicaRecord("r1", 1, ("1",))


async def test_a_record_whose_lease_was_lost_is_written_again(stage: Stage) -> None:
    """After an outage of the store that outlasted the lease."""
    entry = await stage.store.get(keys.replica("r1"))
    assert entry is not None
    before = await stage.revision()
    await stage.store.revoke_lease(entry.lease)
    await stage.until_known("1", after=before)
    again = await stage.store.get(keys.replica("r1"))
    assert again is not None
    assert again.lease != entry.lease


async def test_a_lease_that_was_lost_before_the_record_was_written_is_replaced(
    memory: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a start during an outage that outlasts the lease."""
    stage, put = Stage(memory), memory.put

    async def too_late(key: str, value: bytes, *, lease: LeaseId) -> bool:
        monkeypatch.setattr(memory, "put", put)
        await memory.revoke_lease(lease)
        raise StoreUnavailable("away")

    monkeypatch.setattr(memory, "put", too_late)
    with pytest.raises(StoreUnavailable):
        await stage.replica.publish()
    await stage.replica.publish()
    assert await stage.stored() is not None


def test_replicas_of_one_machine_have_names_of_their_own() -> None:
    """Which begin with the machine's."""
    assert new_replica_id() != new_replica_id()
