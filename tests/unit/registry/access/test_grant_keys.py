"""The keys that sign grants: rotated by time and by operators, lost, damaged."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
import pytest
from portway_proto.v1.types_pb2 import NodeInfo
from portway_registry.access.grant_keys import GrantKeys, KeyState, KeyStatus, make_first_key, new_key
from portway_registry.errors import NotFound, NotYet
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import Order, OrderRecord, ReplicaRecord, decode_grant_key, encode
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.views import ViewedStore

HOUR = 3_600_000
DAY = 24 * HOUR
START = 1_800_000_000_000
# Seconds: what is due takes effect within, on a busy machine too.
PATIENCE = 20.0
# Seconds for which what is not due is waited for.
HASTE = 0.05


class RotatedKeys:
    """Keys in a store, and two replicas that rotate them, at a time that the test sets."""

    def __init__(self, cluster: ViewedStore) -> None:
        self.now = START
        self.cluster = cluster
        self.store: EmbeddedStore = cluster.store
        self.audit = Audit(self.store, lambda: self.now)
        self._replicas = [
            GrantKeys(self.store, cluster.views, self.audit, lambda: self.now, patience=PATIENCE) for _ in range(2)
        ]
        self.keys = self._replicas[0]
        self._hasty = GrantKeys(self.store, cluster.views, self.audit, lambda: self.now, patience=HASTE)

    async def look(self, at: int) -> dict[str, int]:
        """All replicas rotate them; the keys by their kids, with when they become active, counted from the start."""
        self.now = START + at
        for replica in self._replicas:
            await replica.look()
        await self.cluster.settle()
        return {key.kid: key.active_from_ms - START for key in self.cluster.views.grant_keys.values()}

    async def announce(self) -> KeyStatus:
        """An operator rotates the keys, and the next one does not sign yet."""
        return await self._hasty.rotate(by="admin")

    async def node(self, name: str, *known: str) -> None:
        """A node that lives and knows these keys."""
        info = NodeInfo(name=name, region="fra", grant_keys=known)
        await self.store.put(keys.node(name), info.SerializeToString())
        await self.cluster.settle()

    async def replica(self, name: str, *known: str) -> None:
        """A replica that lives and knows these keys."""
        await self.store.put(keys.replica(name), encode(ReplicaRecord(name, grant_keys=known)))
        await self.cluster.settle()

    def states(self) -> dict[str, KeyState]:
        return {one.id: one.state for one in self.keys.all().values()}

    def status(self, kid: str) -> KeyStatus:
        return next(one for one in self.keys.all().values() if one.id == kid)

    async def audited(self) -> list[tuple[str, str]]:
        return [(one.action, one.target) for one in reversed((await self.audit.page(100))[0])]


@pytest.fixture
async def rotated(cluster: ViewedStore) -> RotatedKeys:
    await make_first_key(cluster.store, now_ms=START)
    await cluster.settle()
    return RotatedKeys(cluster)


@pytest.fixture
async def running(rotated: RotatedKeys) -> AsyncIterator[RotatedKeys]:
    """One replica looks by itself whenever something changes."""
    task = asyncio.ensure_future(rotated.keys.run())
    yield rotated
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until_signs(rotated: RotatedKeys, kid: str) -> None:
    async with asyncio.timeout(20):
        while rotated.keys.signing_id() != kid:
            changed = asyncio.Event()
            unsubscribe = rotated.cluster.views.grant_keys.subscribe(lambda *_: changed.set())
            try:
                if rotated.keys.signing_id() != kid:
                    await changed.wait()
            finally:
                unsubscribe()


async def test_the_first_key_is_made_once(memory: EmbeddedStore) -> None:
    """Whoever comes second leaves the first key as it is."""
    await make_first_key(memory, now_ms=1)
    before = await memory.get(keys.grant_key("1"))
    await make_first_key(memory, now_ms=2)
    assert await memory.get(keys.grant_key("1")) == before


async def test_a_registry_that_starts_makes_no_first_key_beside_later_ones(memory: EmbeddedStore) -> None:
    """The first key is gone after a month; made again, it would sign before any node knows it."""
    await memory.put(keys.grant_key("2"), encode(new_key("2", active_from_ms=1)))
    await make_first_key(memory, now_ms=2)
    assert [one.key for one in (await memory.list(keys.GRANT_KEYS)).entries] == [keys.grant_key("2")]


async def test_a_key_signs_for_thirty_days(rotated: RotatedKeys) -> None:
    """The next one is published a day before it signs, and there is one, however many replicas rotate them."""
    assert await rotated.look(at=29 * DAY - 1) == {"1": 0}
    assert await rotated.look(at=29 * DAY) == {"1": 0, "2": 30 * DAY}
    assert rotated.status("2").state is KeyState.ANNOUNCED
    assert await rotated.look(at=30 * DAY) == {"1": 0, "2": 30 * DAY}
    assert rotated.states() == {"1": KeyState.VERIFYING, "2": KeyState.SIGNING}


async def test_a_key_is_kept_while_its_grants_may_be_honoured(rotated: RotatedKeys) -> None:
    """An old key goes when 26 hours have passed since the next one began to sign."""
    await rotated.look(at=29 * DAY)
    assert set(await rotated.look(at=30 * DAY + 26 * HOUR)) == {"1", "2"}
    assert set(await rotated.look(at=30 * DAY + 26 * HOUR + 1)) == {"2"}


async def test_a_year_leaves_few_keys(rotated: RotatedKeys) -> None:
    """Rotated four times a day for a year, keys follow each other and do not pile up."""
    most = 0
    for hour in range(0, 365 * 24, 6):
        found = await rotated.look(at=hour * HOUR)
        most = max(most, len(found))
    assert most == 2
    assert max(map(int, found)) == 13


async def test_a_long_pause_makes_one_key(rotated: RotatedKeys) -> None:
    """After a year without any registry there is one new key, not twelve."""
    assert set(await rotated.look(at=365 * DAY)) == {"1", "2"}
    assert set(await rotated.look(at=365 * DAY + HOUR)) == {"1", "2"}


async def test_a_new_key_signs_when_all_that_live_know_it(rotated: RotatedKeys) -> None:
    """Nodes and replicas; until then the one before signs, and the status says who is waited for."""
    await rotated.node("fra-1", "1")
    await rotated.replica("r1", "1")
    made = await rotated.announce()
    assert (made.id, made.state, made.early) == ("2", KeyState.ANNOUNCED, True)
    assert (made.unaware_nodes, made.unaware_replicas) == (("fra-1",), ("r1",))
    assert rotated.keys.signing_id() == "1"
    await rotated.node("fra-1", "1", "2")
    await rotated.look(at=HOUR)
    assert (rotated.status("2").unaware_nodes, rotated.status("2").unaware_replicas) == ((), ("r1",))
    assert rotated.keys.signing_id() == "1"
    await rotated.replica("r1", "1", "2")
    assert await rotated.look(at=2 * HOUR) == {"1": 0, "2": 2 * HOUR}
    assert rotated.keys.signing_id() == "2"
    assert rotated.status("1").used_until_ms == START + 2 * HOUR + 26 * HOUR
    assert await rotated.audited() == [("grant-key.rotate", "2")]


async def test_a_node_that_never_says_what_it_knows_is_waited_for_a_day(rotated: RotatedKeys) -> None:
    """One of an earlier release, or one that hangs."""
    await rotated.node("old-1")
    await rotated.announce()
    await rotated.look(at=DAY - 1)
    assert rotated.keys.signing_id() == "1"
    await rotated.look(at=DAY)
    assert rotated.keys.signing_id() == "2"


async def test_a_removed_node_is_not_waited_for(rotated: RotatedKeys) -> None:
    """Its record may outlive it by some seconds."""
    await rotated.node("fra-1", "1")
    await rotated.store.put(keys.order("fra-1"), encode(OrderRecord("fra-1", Order.REMOVE)))
    await rotated.cluster.views.orders.caught_up("fra-1")
    await rotated.keys.rotate(by="admin")
    assert rotated.keys.signing_id() == "2"


async def test_a_rotation_may_be_repeated(rotated: RotatedKeys) -> None:
    """While a key is announced no other is made; it is in the audit once."""
    await rotated.node("fra-1", "1")
    assert [(await rotated.announce()).id for _ in range(3)] == ["2", "2", "2"]
    assert await rotated.audited() == [("grant-key.rotate", "2")]


async def test_a_key_that_was_due_by_time_is_taken(rotated: RotatedKeys) -> None:
    """It waits for its day no more."""
    await rotated.look(at=29 * DAY)
    assert rotated.status("2").state is KeyState.ANNOUNCED
    assert (await rotated.keys.rotate(by="admin")).state is KeyState.SIGNING
    assert set(rotated.states()) == {"1", "2"}


async def test_the_last_node_to_learn_a_key_lets_it_sign(running: RotatedKeys) -> None:
    """At once, without a look at the clock."""
    await running.node("fra-1", "1")
    await running.announce()
    await running.node("fra-1", "1", "2")
    await until_signs(running, "2")


async def test_a_replica_whose_clock_is_behind_lets_a_key_sign(running: RotatedKeys) -> None:
    """The key that it replaces began by another clock, which is a minute ahead: the new one is the younger one, for all
    clocks, and its record is not written again and again until this one gets there."""
    ahead = running.now
    running.now -= 60_000
    await running.node("fra-1", "1")
    await running.announce()
    changes: list[int] = []
    running.cluster.views.grant_keys.subscribe(
        lambda old, new: changes.append(new.value.active_from_ms) if new else None
    )
    await running.node("fra-1", "1", "2")
    await running.keys.look()
    await running.cluster.settle()
    await running.keys.look()
    await running.cluster.settle()
    assert changes == [ahead + 1]
    running.now = ahead + 1
    assert running.states() == {"1": KeyState.VERIFYING, "2": KeyState.SIGNING}


async def test_a_node_that_is_gone_is_not_waited_for(running: RotatedKeys) -> None:
    """It is told the key when it registers again, before any client comes to it."""
    await running.node("fra-1", "1")
    await running.announce()
    await running.store.delete(keys.node("fra-1"))
    await until_signs(running, "2")


async def test_keys_in_use_are_not_retired(rotated: RotatedKeys) -> None:
    """The refusal says what to do, or from when on it is possible; later it is done, once."""
    with pytest.raises(NotYet, match="grant-key rotate"):
        await rotated.keys.retire("1", force=False, by="admin")
    await rotated.keys.rotate(by="admin")
    with pytest.raises(NotYet, match="until 2027-01-16 10:00 UTC"):
        await rotated.keys.retire("1", force=False, by="admin")
    rotated.now += 26 * HOUR + 1
    assert (await rotated.keys.retire("1", force=False, by="admin")).state is KeyState.VERIFYING
    assert rotated.states() == {"2": KeyState.SIGNING}
    with pytest.raises(NotFound, match="grant-key list"):
        await rotated.keys.retire("1", force=False, by="admin")
    assert await rotated.audited() == [("grant-key.rotate", "2"), ("grant-key.retire", "1")]


async def test_a_key_that_has_signed_nothing_may_go(rotated: RotatedKeys) -> None:
    """An announced one is taken back."""
    await rotated.node("fra-1", "1")
    await rotated.announce()
    await rotated.keys.retire("2", force=False, by="admin")
    assert rotated.states() == {"1": KeyState.SIGNING}


async def test_by_force_a_stolen_key_is_replaced_at_once(rotated: RotatedKeys) -> None:
    """By the announced one if there is one, whoever knows it."""
    await rotated.node("fra-1", "1")
    assert (await rotated.keys.retire("1", force=True, by="admin")).state is KeyState.SIGNING
    assert rotated.states() == {"2": KeyState.SIGNING}
    rotated.now += 1000
    await rotated.announce()
    await rotated.keys.retire("2", force=True, by="admin")
    assert rotated.states() == {"3": KeyState.SIGNING}
    assert ("grant-key.retire-by-force", "1") in await rotated.audited()


async def test_a_key_that_somebody_deleted_is_named_once(
    running: RotatedKeys, caplog: pytest.LogCaptureFixture
) -> None:
    """The last one is replaced by a key that signs at once; an older key signs again while there is one."""
    await running.keys.rotate(by="admin")
    assert running.states() == {"1": KeyState.VERIFYING, "2": KeyState.SIGNING}
    with caplog.at_level(logging.ERROR):
        await running.store.delete(keys.grant_key("2"))
        await until_signs(running, "1")
        await running.store.delete(keys.grant_key("1"))
        await until_signs(running, "3")
    lost = [record.__dict__["key"] for record in caplog.records if "is gone from the store" in record.message]
    assert lost == [keys.grant_key("2"), keys.grant_key("1")]
    assert sum("no grant key was left" in record.message for record in caplog.records) == 1


async def test_a_damaged_key_is_named_once_and_the_others_go_on(
    rotated: RotatedKeys, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut short, of no form, or with halves that do not belong together; it is listed, and may be deleted."""
    await rotated.keys.rotate(by="admin")
    entry = await rotated.store.get(keys.grant_key("2"))
    assert entry is not None
    sound = decode_grant_key(entry.value)
    halves = msgspec.structs.replace(sound, public_key=bytes(32))
    short = msgspec.structs.replace(sound, private_key=b"short")
    for damaged in (entry.value[:40], b"", encode(halves), encode(short)):
        caplog.clear()
        await rotated.store.put(keys.grant_key("2"), damaged)
        await rotated.cluster.settle()
        await rotated.look(at=HOUR)
        await rotated.cluster.views.grant_keys.read(["2"])
        assert rotated.states() == {"1": KeyState.SIGNING, "2": KeyState.UNREADABLE}
        assert [record.__dict__["key"] for record in caplog.records if "cannot be read" in record.message] == [
            keys.grant_key("2")
        ]
    await rotated.keys.retire("2", force=False, by="admin")
    assert rotated.states() == {"1": KeyState.SIGNING}


async def test_when_every_key_is_damaged_a_new_one_signs(rotated: RotatedKeys) -> None:
    """Under an id that no damaged record has."""
    await rotated.store.put(keys.grant_key("1"), b"{")
    await rotated.cluster.settle()
    await rotated.look(at=HOUR)
    assert rotated.states() == {"2": KeyState.SIGNING, "1": KeyState.UNREADABLE}


async def test_keys_do_not_pile_up(rotated: RotatedKeys) -> None:
    """Rotated again and again, there are 16 at most; then the refusal says what is waited for."""
    for _ in range(15):
        rotated.now += 1000
        await rotated.keys.rotate(by="admin")
    with pytest.raises(NotYet, match="26 hours"):
        await rotated.keys.rotate(by="admin")
    assert len(rotated.states()) == 16
