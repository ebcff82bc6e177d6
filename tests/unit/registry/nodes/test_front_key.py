"""The secret of PROXY headers: made once, replaced by time and by operators, never in use before all replicas know
it."""

import asyncio

import pytest
from portway_registry.errors import NotYet
from portway_registry.nodes.front_key import ANNOUNCED_MS, LIFE_MS, SETTLED_MS, FrontKey, FrontKeyState, FrontKeyStatus
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import IdentityRecord, Order, OrderRecord, ReplicaRecord, encode
from portway_testkit.clusters.views import ViewedStore

START = 1_800_000_000_000
# Seconds: what is due takes effect within, on a busy machine too.
PATIENCE = 20.0
# Seconds for which what is not due is waited for.
HASTE = 0.05


class Keys:
    """Two replicas that look after one secret, at a time that the test sets."""

    def __init__(self, cluster: ViewedStore) -> None:
        self.cluster = cluster
        self.now = START
        audit = Audit(cluster.store, lambda: self.now)
        self.replicas = [
            FrontKey(cluster.store, cluster.views, audit, lambda: self.now, patience=PATIENCE) for _ in range(2)
        ]
        self._hasty = FrontKey(cluster.store, cluster.views, audit, lambda: self.now, patience=HASTE)

    async def lives(self, replica: str, *known: str) -> None:
        """A replica says which secrets it knows."""
        await self.cluster.store.put(keys.replica(replica), encode(ReplicaRecord(replica, front_keys=known)))
        await self.cluster.settle()

    async def rotate(self, at: int, *, force: bool = False) -> FrontKeyStatus:
        self.now = START + at
        rotated = await self.replicas[0].rotate(force=force, by="admin")
        await self.cluster.settle()
        return rotated

    async def announce(self, at: int) -> FrontKeyStatus:
        """An operator rotates it, and the next one is not in use yet."""
        self.now = START + at
        rotated = await self._hasty.rotate(force=False, by="admin")
        await self.cluster.settle()
        return rotated

    def states(self) -> list[FrontKeyState]:
        return [one.state for one in self.replicas[0].all()]

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


async def test_one_that_is_asked_for_is_used_once_every_replica_knows_it(both: Keys) -> None:
    """Not before, but for one that never says so; who is waited for is told."""
    (first,) = await both.look(0)
    (known,) = both.replicas[0].all()
    await both.lives("one", known.id)
    await both.lives("other", known.id)
    made = await both.announce(1)
    assert (made.state, made.unaware_replicas) == (FrontKeyState.ANNOUNCED, ("one", "other"))
    assert (await both.look(2))[0] == first
    await both.lives("one", known.id, made.id)
    assert (await both.look(3))[0] == first
    again = await both.announce(4)
    assert (again.id, again.unaware_replicas) == (made.id, ("other",))
    await both.lives("other", known.id, made.id)
    after = await both.look(5)
    assert after[1] == first
    assert both.states() == [FrontKeyState.IN_USE, FrontKeyState.ACCEPTED]
    assert both.replicas[0].all()[0].id == made.id


async def test_a_replica_of_an_earlier_release_is_waited_for_as_ever(both: Keys) -> None:
    """It never says what it knows."""
    (first,) = await both.look(0)
    await both.lives("old")
    await both.announce(1)
    assert (await both.look(ANNOUNCED_MS))[0] == first
    assert (await both.look(ANNOUNCED_MS + 1))[1] == first


async def test_one_that_is_announced_by_time_is_hurried(both: Keys) -> None:
    """No other one is made."""
    await both.look(0)
    (_, announced) = await both.look(LIFE_MS)
    await both.rotate(LIFE_MS + 1)
    assert (await both.look(LIFE_MS + 2))[0] == announced


async def test_headers_on_their_way_are_waited_for(both: Keys) -> None:
    """A second rotation would take the one before away, by which nodes wrote a moment ago."""
    await both.look(0)
    assert (await both.rotate(1)).state is FrontKeyState.IN_USE
    with pytest.raises(NotYet, match="repeat it then"):
        await both.rotate(SETTLED_MS)
    assert (await both.rotate(1 + SETTLED_MS)).state is FrontKeyState.IN_USE


async def test_a_stolen_one_is_replaced_at_once(both: Keys) -> None:
    """Neither it nor the one before is accepted; the audit says who did it."""
    await both.look(0)
    await both.rotate(1)
    before = await both.look(2)
    await both.lives("old")
    made = await both.rotate(3, force=True)
    (only,) = await both.look(4)
    assert only not in before
    assert both.states() == [FrontKeyState.IN_USE]
    entries, _ = await Audit(both.cluster.store, lambda: both.now).page(9)
    assert (entries[0].action, entries[0].target) == ("front-key.rotate-by-force", made.id)
