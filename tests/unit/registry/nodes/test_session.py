"""One node's session, over a store that a test can take away: without any gRPC."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import pytest
from portway_proto.v1.mesh_pb2 import (
    EVICTION_REASON_INVALID,
    Announce,
    AnnouncedSession,
    KeepAlive,
    NodeMessage,
    Register,
    RegistryMessage,
    TokensHeld,
    Withdrawal,
)
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, NODE_STATE_READY, NodeInfo, TunnelInfo
from portway_proto.wire.statements import SigningKey
from portway_registry.errors import FellSilent, InvalidRequest, NodeRemoved, Replaced, StoreUnavailable
from portway_registry.nodes import session as session_module
from portway_registry.nodes import work_queue
from portway_registry.nodes.session import NodeSession
from portway_registry.state import keys
from portway_registry.state.views import Item, Views
from portway_registry.store.contract import NO_LEASE, Entry, LeaseId, Revision
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.tunnels.quota import Limit
from portway_testkit.clusters.announcing import Announcing
from portway_testkit.clusters.registry import node_info, tunnel_info

PATIENCE = 10.0
NOW_MS = 1_700_000_000_000
T = TypeVar("T")


class Fickle(EmbeddedStore):
    """A store that can be away; `refused` counts what was asked of it meanwhile."""

    def __init__(self) -> None:
        super().__init__(None, on_failure=print)
        self.away = False
        self.refused = 0
        self.asked = asyncio.Event()

    def _check(self) -> None:
        if self.away:
            self.refused += 1
            self.asked.set()
            raise StoreUnavailable("away")

    async def get(self, key: str) -> Entry | None:
        self._check()
        return await super().get(key)

    async def write(self, writes: Any) -> tuple[bool, ...]:
        self._check()
        return await super().write(writes)

    async def keep_lease(self, lease: LeaseId) -> None:
        self._check()
        await super().keep_lease(lease)

    async def grant_lease(self, ttl: float) -> LeaseId:
        self._check()
        return await super().grant_lease(ttl)


class Running:
    """A session that is served, with a test in the node's place."""

    def __init__(self, store: Fickle, views: Views, info: NodeInfo, *, lease_seconds: int = 60) -> None:
        self.store = store
        self.announcing = Announcing(store, views)
        self.session = NodeSession(
            store,
            self.announcing.node(info.name, info.region),
            info,
            lease_seconds=lease_seconds,
            now_ms=lambda: NOW_MS,
            issued_ms=0,
            certificate=b"",
            still_current=self._still_current,
            on_probed=lambda probed: None,
            invalid_tokens=self._invalid_tokens,
        )
        self.heard: list[RegistryMessage] = []
        self.is_out = False  # the store says that the node was removed
        self.outages = 0  # look-ups of tokens that fail
        self._requests: asyncio.Queue[NodeMessage | None] = asyncio.Queue()
        self._changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def start(self, lease: int = 0) -> None:
        await self.session.register(lease)
        self.task = asyncio.ensure_future(self.session.serve(self._say(), self._write))

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        self.announcing.close()

    async def tunnel(self) -> tuple[TunnelInfo, AnnouncedSession]:
        """A tunnel of a client at this node, and its session."""
        client = await self.announcing.client()
        return client.tunnel("fra-1"), client.session("fra-1")

    def say(self, **message: Any) -> None:
        self._requests.put_nowait(NodeMessage(**message))

    def leave(self) -> None:
        self._requests.put_nowait(None)

    async def over(self) -> None:
        """Raises what ended the session."""
        assert self.task is not None
        async with asyncio.timeout(PATIENCE):
            await self.task

    async def until(self, found: Callable[[], T]) -> T:
        async with asyncio.timeout(PATIENCE):
            while not (result := found()):
                self._changed.clear()
                await self._changed.wait()
        return result

    def leases(self) -> list[int]:
        return [message.registered.lease_id for message in self.heard if message.HasField("registered")]

    def announced(self) -> list[int]:
        return [message.announced.batch for message in self.heard if message.HasField("announced")]

    def evicted(self) -> list[str]:
        return [one.label for message in self.heard for one in message.evictions.evictions]

    def revoked(self) -> list[str]:
        return [one for message in self.heard for one in message.revocations.token_ids]

    async def _still_current(self) -> None:
        if self.is_out:
            raise NodeRemoved("fra-1")

    async def _invalid_tokens(self, token_ids: Sequence[str]) -> list[str]:
        if self.outages:
            self.outages -= 1
            raise StoreUnavailable("away")
        return [one for one in token_ids if one.startswith("bad")]

    @property
    def unread(self) -> int:
        """Messages that the session has not read yet."""
        return self._requests.qsize()

    async def _say(self) -> AsyncIterator[NodeMessage]:
        while (message := await self._requests.get()) is not None:
            yield message

    async def _write(self, message: RegistryMessage) -> None:
        self.heard.append(message)
        self._changed.set()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries while the store is away follow each other closely."""
    monkeypatch.setattr(session_module, "_PAUSE", 0.02)


@pytest.fixture
async def store() -> AsyncIterator[Fickle]:
    store = Fickle()
    yield store
    await store.close()


@pytest.fixture
async def views(store: Fickle) -> AsyncIterator[Views]:
    views = Views(store, on_failure=print)
    await views.start()
    yield views
    await views.close()


@pytest.fixture
async def running(store: Fickle, views: Views) -> AsyncIterator[Running]:
    running = Running(store, views, node_info("fra-1", started_at_ms=100))
    await running.start()
    yield running
    await running.stop()


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


def item(tunnel: TunnelInfo) -> Item[TunnelInfo]:
    return Item(tunnel.label, tunnel, Revision(1), Revision(1), NO_LEASE)


async def test_a_session_that_was_ended_early_ends_at_once(store: Fickle, views: Views) -> None:
    """Replaced before it was served, it is served no further."""
    session = Running(store, views, node_info("fra-1"))
    session.session.end(Replaced("newer"))
    session.session.end(InvalidRequest("the first reason counts"))
    await session.start()
    with pytest.raises(Replaced):
        await session.over()


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


async def test_a_node_that_was_removed_gets_no_new_lease(store: Fickle, running: Running) -> None:
    """Its lease was ended with its removal, of which this replica may hear only later."""
    await running.until(running.leases)
    running.is_out = True
    await store.revoke_lease(LeaseId(running.leases()[0]))
    running.say(keep_alive=KeepAlive(state=NODE_STATE_READY))
    with pytest.raises(NodeRemoved):
        await running.over()
    assert await store.get(keys.node("fra-1")) is None
