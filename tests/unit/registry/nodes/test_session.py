"""One node's session, over a store that a test can take away: its lease, its tokens, and what ends it."""

import asyncio

import pytest
from portway_proto.v1.mesh_pb2 import Announce, KeepAlive, Register, TokensHeld
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, NODE_STATE_READY, NodeInfo
from portway_registry.errors import FellSilent, InvalidRequest, NodeRemoved, Replaced
from portway_registry.state import keys
from portway_registry.state.views import Views
from portway_registry.store.contract import Entry, LeaseId
from portway_testkit.clusters.registry import node_info
from portway_testkit.clusters.served_session import NOW_MS, PATIENCE, Fickle, Running


async def record(store: Fickle) -> Entry:
    entry = await store.get(keys.node("fra-1"))
    assert entry is not None
    return entry


async def test_a_registration_is_on_its_lease(store: Fickle, running: Running) -> None:
    """The node's record hangs on the lease that it is told first of all."""
    await running.until(running.leases)
    assert running.heard[0].registered.lease_seconds == 60
    assert running.heard[0].registered.registry_time_ms == NOW_MS
    assert (await record(store)).lease == running.leases()[0]


async def test_a_lost_lease_is_replaced_and_told(store: Fickle, running: Running) -> None:
    """A KeepAlive on a lease that the store forgot registers the node anew, on a lease that is another."""
    await running.until(running.leases)
    await store.revoke_lease(LeaseId(running.leases()[0]))
    running.say(keep_alive=KeepAlive(sessions=1))
    await running.until(lambda: len(running.leases()) == 2)
    first, second = running.leases()
    assert first != second
    assert (await record(store)).lease == second


async def test_a_batch_on_a_lost_lease_goes_to_the_new_one(store: Fickle, running: Running) -> None:
    """An announcement that finds its lease gone registers first, once, and is written then."""
    await running.until(running.leases)
    await store.revoke_lease(LeaseId(running.leases()[0]))
    tunnel, of = await running.tunnel()
    running.say(announce=Announce(batch=1, bound=[tunnel], sessions=[of]))
    running.say(keep_alive=KeepAlive())
    await running.until(running.announced)
    entry = await store.get(keys.tunnel(tunnel.label))
    assert entry is not None
    assert [entry.lease] == running.leases()[1:]


async def test_a_lease_is_refreshed_once_the_store_is_back(store: Fickle, running: Running) -> None:
    """A KeepAlive during an outage is made good after it, without another one."""
    await running.until(running.leases)
    store.away = True
    running.say(keep_alive=KeepAlive(sessions=5, state=NODE_STATE_READY))
    await store.asked.wait()
    store.away = False
    watch = store.watch(keys.NODES, (await store.list("")).revision)
    async with asyncio.timeout(PATIENCE):
        (event,) = await anext(watch)
    await watch.aclose()
    assert NodeInfo.FromString(event.entry.value).sessions == 5
    assert len(running.leases()) == 1


async def test_a_node_that_resumes_its_lease_keeps_its_tunnels(store: Fickle, views: Views, running: Running) -> None:
    """A later session that shows the lease has it; one that shows another, or none, does not."""
    await running.until(running.leases)
    lease = running.leases()[0]
    await running.stop()
    for shown, resumes in ((lease + 1, False), (0, False), (None, True)):
        again = Running(store, views, node_info("fra-1", started_at_ms=1))
        standing = (await record(store)).lease
        await again.start(standing if shown is None else shown)
        await again.until(again.leases)
        assert (again.leases()[0] == standing) is resumes
        await again.stop()


async def test_a_later_session_is_later_whatever_the_clocks_say(store: Fickle, views: Views, running: Running) -> None:
    """A replica whose clock is behind still makes the newer session; the older one learns of it and ends."""
    newer = Running(store, views, node_info("fra-1", started_at_ms=1))
    await newer.start()
    assert newer.session.info.started_at_ms == 101
    running.say(keep_alive=KeepAlive())
    with pytest.raises(Replaced):
        await running.over()
    await newer.stop()


async def test_a_silent_node_is_let_go(store: Fickle, views: Views) -> None:
    """Without a KeepAlive for the length of a lease the session ends by itself."""
    silent = Running(store, views, node_info("fra-1"), lease_seconds=1)
    await silent.start()
    with pytest.raises(FellSilent, match="no KeepAlive for 1 s"):
        await silent.over()


async def test_silence_is_not_mistaken_for_a_forgetful_store(
    store: Fickle, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that went because the node was silent is not written anew by the registry on its own."""
    await running.until(running.leases)
    await store.revoke_lease(LeaseId(running.leases()[0]))
    later = asyncio.get_running_loop().time() + 60
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later)
    running.session.record_lost()
    monkeypatch.undo()
    running.say(announce=Announce(batch=1))
    await running.until(running.announced)
    assert len(running.leases()) == 1
    assert await store.get(keys.node("fra-1")) is None


async def test_a_node_that_drained_and_left_is_forgotten(store: Fickle, running: Running) -> None:
    """Its lease ends with its stream; that of one that only broke off does not."""
    running.say(keep_alive=KeepAlive(state=NODE_STATE_DRAINING))
    running.leave()
    await running.over()
    assert await store.get(keys.node("fra-1")) is None


async def test_a_node_that_just_leaves_is_waited_for(store: Fickle, running: Running) -> None:
    """A stream that ended in order leaves the record to its lease: the node may be back in a moment."""
    running.leave()
    await running.over()
    await record(store)


async def test_a_second_register_ends_the_stream(running: Running) -> None:
    """A stream is one registration."""
    running.say(register=Register())
    with pytest.raises(InvalidRequest, match="one registration"):
        await running.over()


async def test_a_node_is_told_which_of_its_tokens_are_not_valid(running: Running) -> None:
    """Those that it names, however long ago they were revoked; during an outage as soon as the store answers."""
    running.outages = 2
    running.say(tokens_held=TokensHeld(token_ids=["bad1", "good"]))
    running.say(tokens_held=TokensHeld(token_ids=["good", "bad2"]))
    await running.until(lambda: len(running.revoked()) == 2)
    assert running.revoked() == ["bad1", "bad2"]
    assert running.outages == 0


@pytest.mark.parametrize("ids", [["x"] * 1_001, ["not/an/id"], [""], ["x" * 65]], ids=["many", "form", "none", "long"])
async def test_a_list_of_tokens_has_its_form(running: Running, ids: list[str]) -> None:
    """Any other ends the stream."""
    running.say(tokens_held=TokensHeld(token_ids=ids))
    with pytest.raises(InvalidRequest, match="token"):
        await running.over()


async def test_a_stream_names_a_bounded_number_of_tokens(running: Running) -> None:
    """Each that the registry does not know costs a read."""
    for _ in range(101):
        running.say(tokens_held=TokensHeld(token_ids=["good"] * 1_000))
    with pytest.raises(InvalidRequest, match="at most 100000"):
        await running.over()


async def test_a_session_that_was_ended_early_ends_at_once(store: Fickle, views: Views) -> None:
    """Replaced before it was served, it is served no further."""
    session = Running(store, views, node_info("fra-1"))
    session.session.end(Replaced("newer"))
    session.session.end(InvalidRequest("the first reason counts"))
    await session.start()
    with pytest.raises(Replaced):
        await session.over()


async def test_a_node_that_was_removed_gets_no_new_lease(store: Fickle, running: Running) -> None:
    """Its lease was ended with its removal, of which this replica may hear only later."""
    await running.until(running.leases)
    running.is_out = True
    await store.revoke_lease(LeaseId(running.leases()[0]))
    running.say(keep_alive=KeepAlive(state=NODE_STATE_READY))
    with pytest.raises(NodeRemoved):
        await running.over()
    assert await store.get(keys.node("fra-1")) is None
