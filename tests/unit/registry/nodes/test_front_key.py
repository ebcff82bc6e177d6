"""The secret of PROXY headers: made once, replaced by time, never in use before every replica has heard of it."""

import asyncio

import pytest
from portway_registry.nodes.front_key import ANNOUNCED_MS, LIFE_MS, FrontKey
from portway_registry.state import keys
from portway_registry.state.records import IdentityRecord, Order, OrderRecord, encode
from portway_testkit.clusters.views import ViewedStore

START = 1_800_000_000_000


class Keys:
    """Two replicas that look after one secret, at a time that the test sets."""

    def __init__(self, cluster: ViewedStore) -> None:
        self.cluster = cluster
        self.now = START
        self.replicas = [FrontKey(cluster.store, cluster.views, lambda: self.now) for _ in range(2)]

    async def look(self, at: int) -> tuple[bytes, ...]:
        """All replicas do what is due then, at once; the keys of a node afterwards."""
        self.now = START + at
        await asyncio.gather(*(replica.look() for replica in self.replicas))
        await self.cluster.settle()
        one, other = (replica.accepted("fra-1") for replica in self.replicas)
        assert one == other
        return one


@pytest.fixture
def both(cluster: ViewedStore) -> Keys:
    return Keys(cluster)


async def test_there_is_none_before_it_is_made(both: Keys) -> None:
    """Nobody is believed, and nodes are told no key."""
    assert both.replicas[0].accepted("fra-1") == ()
    assert both.replicas[0].of_node("fra-1") == b""


async def test_it_is_made_once_and_each_node_has_a_key_of_its_own(both: Keys) -> None:
    """By the first of the replicas."""
    (key,) = await both.look(0)
    assert len(key) == 32
    assert key == both.replicas[0].of_node("fra-1") != both.replicas[0].of_node("fra-2")
    assert await both.look(LIFE_MS - 1) == (key,)


async def test_the_next_one_is_believed_before_it_is_written_by(both: Keys) -> None:
    """And the one before for as long afterwards: at each time two are accepted, and a node writes by the first."""
    (first,) = await both.look(0)
    announced = await both.look(LIFE_MS)
    assert announced[0] == first
    assert len(set(announced)) == 2
    assert await both.look(LIFE_MS + ANNOUNCED_MS - 1) == announced
    assert await both.look(LIFE_MS + ANNOUNCED_MS) == announced[::-1]
    later = await both.look(2 * LIFE_MS + ANNOUNCED_MS)
    assert later[0] == announced[1]
    assert first not in later


async def test_a_removed_node_is_not_believed(both: Keys) -> None:
    """Nor who has the key of the node that had the name before."""
    before = await both.look(0)
    store, cluster = both.cluster.store, both.cluster
    await store.put(keys.order("fra-1"), encode(OrderRecord("fra-1", Order.CORDON)))
    await cluster.settle()
    assert await both.look(1) == before
    await store.put(keys.order("fra-1"), encode(OrderRecord("fra-1", Order.REMOVE)))
    await cluster.settle()
    assert await both.look(2) == ()
    await store.delete(keys.order("fra-1"))
    await store.put(keys.identity("fra-1"), encode(IdentityRecord("fra-1", "fra", "i", START, anew=True)))
    await cluster.settle()
    after = await both.look(3)
    assert len(after) == 1
    assert after != before


async def test_it_is_made_again_when_it_was_deleted(both: Keys) -> None:
    """Nodes are told of the new one."""
    (before,) = await both.look(0)
    await both.cluster.store.delete(keys.FRONT_KEY)
    await both.cluster.settle()
    (after,) = await both.look(1)
    assert after != before
