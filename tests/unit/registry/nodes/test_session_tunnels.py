"""The tunnels of one node's session: batches that the store takes late, and what the registry takes back."""

import asyncio

import pytest
from portway_proto.v1.mesh_pb2 import EVICTION_REASON_INVALID, Announce, KeepAlive, Withdrawal
from portway_proto.v1.types_pb2 import NODE_STATE_READY
from portway_proto.wire.statements import SigningKey
from portway_registry.nodes import work_queue
from portway_registry.state import keys
from portway_registry.state.views import Views
from portway_registry.store.contract import LeaseId
from portway_registry.tunnels.quota import Limit
from portway_testkit.clusters.registry import tunnel_info
from portway_testkit.clusters.served_session import PATIENCE, Fickle, Running, item


async def test_a_batch_that_the_store_cannot_take_is_kept(store: Fickle, running: Running) -> None:
    """While the store is away the batch is tried again; it is answered once, when the store has it."""
    tunnel, of = await running.tunnel()
    store.away = True
    running.say(announce=Announce(batch=1, bound=[tunnel], sessions=[of]))
    await store.asked.wait()
    assert running.announced() == []
    store.away = False
    await running.until(running.announced)
    assert running.announced() == [1]
    assert await store.get(keys.tunnel(tunnel.label)) is not None


async def test_batches_are_done_in_their_order(store: Fickle, running: Running) -> None:
    """What is bound and withdrawn again ends withdrawn, however long the store was away in between."""
    tunnel, of = await running.tunnel()
    store.away = True
    running.say(announce=Announce(batch=1, bound=[tunnel], sessions=[of]))
    running.say(announce=Announce(batch=2, withdrawn=[Withdrawal(label=tunnel.label, epoch=1)]))
    await store.asked.wait()
    store.away = False
    await running.until(lambda: running.announced() == [1, 2])
    assert await store.get(keys.tunnel(tunnel.label)) is None


async def test_a_withdrawal_that_failed_at_first_does_no_harm(store: Fickle, views: Views, running: Running) -> None:
    """It is noted before it is written: the binding goes all the same, and the label may be bound again."""
    tunnel, of = await running.tunnel()
    running.say(announce=Announce(batch=1, bound=[tunnel], sessions=[of]))
    await running.until(running.announced)
    await views.tunnels.caught_up(tunnel.label)
    first = await store.get(keys.tunnel(tunnel.label))
    store.away = True
    running.say(announce=Announce(batch=2, withdrawn=[Withdrawal(label=tunnel.label, epoch=tunnel.epoch)]))
    await store.asked.wait()
    store.away = False
    await running.until(lambda: running.announced() == [1, 2])
    assert await store.get(keys.tunnel(tunnel.label)) is None
    running.say(announce=Announce(batch=3, bound=[tunnel], sessions=[of]))
    await running.until(lambda: running.announced() == [1, 2, 3])
    again = await store.get(keys.tunnel(tunnel.label))
    assert first is not None
    assert again is not None
    assert again.created > first.created
    assert running.evicted() == []


async def test_batches_that_wait_are_bounded_in_bytes(
    store: Fickle, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is away the stream is read no further; afterwards everything is taken up."""
    monkeypatch.setattr(work_queue, "_MAX_WAITING", 1_000)
    client = await running.announcing.client()
    for number in range(1, 21):
        tunnel = client.tunnel("fra-1")
        running.say(announce=Announce(batch=number, bound=[tunnel], sessions=[client.session("fra-1")]))
    store.away = True
    await store.asked.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert running.unread >= 10  # of over 1,000 bytes each
    store.away = False
    await running.until(lambda: running.announced() == list(range(1, 21)))
    assert running.unread == 0


async def test_a_tunnel_over_the_quota_is_taken_back(store: Fickle, running: Running) -> None:
    """It is out of the store before the node is told to drop it, once, however often it was found."""
    tunnel, of = await running.tunnel()
    running.say(announce=Announce(batch=1, bound=[tunnel], sessions=[of]))
    await running.until(running.announced)
    for _ in range(3):
        running.session.evict_for_quota(item(tunnel), Limit("demo", False, 1))
    await running.until(running.evicted)
    running.say(announce=Announce(batch=2))
    await running.until(lambda: running.announced() == [1, 2])
    assert running.evicted() == [tunnel.label]
    assert await store.get(keys.tunnel(tunnel.label)) is None


async def settled(running: Running, batch: int) -> None:
    """Wait until a KeepAlive and a batch that were said now are done, with what they lead to."""
    watch = running.store.watch(keys.NODES, (await running.store.list("")).revision)
    running.say(keep_alive=KeepAlive(sessions=batch, state=NODE_STATE_READY))
    async with asyncio.timeout(PATIENCE):
        await anext(watch)
    await watch.aclose()
    running.say(announce=Announce(batch=batch))
    await running.until(lambda: batch in running.announced())


@pytest.mark.parametrize("why", ["quota", "unplaced"])
async def test_what_the_registry_takes_back_is_not_lost(views: Views, running: Running, why: str) -> None:
    """The view shows these deletions before the store has answered: the node has nothing to announce again."""
    views.tunnels.subscribe(lambda old, new: running.session.tunnel_deleted(old) if old and not new else None)
    client = await running.announcing.client()
    tunnels = [client.tunnel("fra-1") for _ in range(5)]
    running.say(announce=Announce(batch=1, bound=tunnels, sessions=[client.session("fra-1")]))
    await running.until(running.announced)
    for tunnel in tunnels:
        await views.tunnels.caught_up(tunnel.label)
    for held in list(views.tunnels.items.values()):
        if why == "quota":
            running.session.evict_for_quota(held, Limit("demo", False, 1))
        else:
            running.session.remove_unplaced(held)
    await running.until(lambda: len(running.evicted()) == len(tunnels))
    await settled(running, 2)
    assert not views.tunnels.items
    assert len(running.leases()) == 1


async def test_what_went_with_an_earlier_lease_is_not_lost(store: Fickle, views: Views, running: Running) -> None:
    """The node has announced it on the new one; what another registry deletes of that, it is to announce again."""
    tunnel, of = await running.tunnel()
    running.say(announce=Announce(batch=1, bound=[tunnel], sessions=[of]))
    await running.until(running.announced)
    await views.tunnels.caught_up(tunnel.label)
    before = views.tunnels.items[tunnel.label]
    await store.revoke_lease(LeaseId(running.leases()[0]))
    running.say(keep_alive=KeepAlive())
    await running.until(lambda: len(running.leases()) == 2)
    running.say(announce=Announce(batch=2, full=True, bound=[tunnel], sessions=[of]))
    await running.until(lambda: running.announced() == [1, 2])
    running.session.tunnel_deleted(before)
    await settled(running, 3)
    assert len(running.leases()) == 2
    await views.tunnels.caught_up(tunnel.label)
    running.session.tunnel_deleted(views.tunnels.items[tunnel.label])
    await running.until(lambda: len(running.leases()) == 3)


async def test_a_leftover_is_removed_and_nobody_is_told(store: Fickle, running: Running) -> None:
    """What an earlier session wrote late is not the node's any more, and the node need not hear of it."""
    leftover = tunnel_info(node="fra-1")
    running.say(announce=Announce(batch=1, full=True))
    await running.until(running.announced)
    await store.put(keys.tunnel(leftover.label), leftover.SerializeToString())
    running.session.tunnel_seen(item(leftover))
    running.say(announce=Announce(batch=2))
    await running.until(lambda: running.announced() == [1, 2])
    assert await store.get(keys.tunnel(leftover.label)) is None
    assert running.evicted() == []


async def test_a_leftover_takes_no_later_tunnel_of_its_label_along(store: Fickle, running: Running) -> None:
    """The node has bound the label again by the time the leftover is removed."""
    client, key = await running.announcing.client(), SigningKey()
    running.say(announce=Announce(batch=1, full=True))
    await running.until(running.announced)
    store.away = True
    running.say(announce=Announce(batch=2, bound=[client.tunnel("fra-1")], sessions=[client.session("fra-1")]))
    await store.asked.wait()
    again = client.tunnel("fra-1", key, 2)
    running.say(announce=Announce(batch=3, bound=[again], sessions=[client.session("fra-1")]))
    for _ in range(20):  # until it waits behind the one before
        await asyncio.sleep(0)
    running.session.tunnel_seen(item(tunnel_info(key, 1, node="fra-1")))
    store.away = False
    await running.until(lambda: running.announced() == [1, 2, 3])
    running.say(announce=Announce(batch=4))
    await running.until(lambda: running.announced() == [1, 2, 3, 4])
    running.session.tunnel_seen(item(again))
    running.say(announce=Announce(batch=5))
    await running.until(lambda: running.announced() == [1, 2, 3, 4, 5])
    assert await store.get(keys.tunnel(again.label)) is not None
    assert running.evicted() == []


async def test_a_tunnel_that_nothing_places_is_taken_back(store: Fickle, running: Running) -> None:
    """It is out of the store before the node is told to drop it; a node that has nothing in work is idle."""
    tunnel, of = await running.tunnel()
    running.say(announce=Announce(batch=1, bound=[tunnel], sessions=[of]))
    await running.until(running.announced)
    running.session.remove_unplaced(item(tunnel))
    assert not running.session.is_idle
    await running.until(running.evicted)
    assert running.heard[-1].evictions.evictions[0].reason == EVICTION_REASON_INVALID
    assert await store.get(keys.tunnel(tunnel.label)) is None
    await asyncio.sleep(0)
    assert running.session.is_idle
