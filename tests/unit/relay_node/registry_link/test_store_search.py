"""A node whose registry does not reach its store, against others that say what a test tells them, over real gRPC."""

import logging

import pytest
from portway_proto.v1.mesh_pb2 import StoreReach
from portway_relay.registry_link import store_search
from portway_testkit.fakes.fake_mesh import LEASE, MakeNode, NodeEnd, Serve, Served
from portway_testkit.links.carrier_link import until

AWAY, BACK = StoreReach(away=True), StoreReach(away=False)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_search, "_SPREAD", 0.0)
    monkeypatch.setattr(store_search, "_PAUSES", (0.02, 0.02))


async def searching(serve: Serve, node: MakeNode) -> tuple[Served, Served, NodeEnd]:
    """Two registries that do not reach their store, and a node of the first one, which has asked the second one."""
    one, other = await serve(), await serve()
    one.mesh.reaches_store = other.mesh.reaches_store = False
    end = node(one, other)
    await until(lambda: end.calls.connected)
    one.mesh.say(store_reach=AWAY)
    await until(lambda: bool(other.mesh.asked))
    return one, other, end


async def test_it_goes_to_one_that_reaches_its_store(serve: Serve, node: MakeNode) -> None:
    """As soon as there is one; with its lease, and telling everything again."""
    one, other = await serve(), await serve()
    one.mesh.reaches_store = other.mesh.reaches_store = False
    end = node(one, other)
    await until(lambda: bool(one.mesh.keep_alives))
    one.mesh.say(store_reach=AWAY)
    await until(lambda: len(other.mesh.asked) > 2)
    assert other.mesh.streams == 0
    assert end.calls.connected
    other.mesh.reaches_store = True
    await until(lambda: bool(other.mesh.keep_alives))
    assert other.mesh.registers[0].lease_id == LEASE
    assert [batch.full for batch in other.mesh.batches] == [True]
    assert one.mesh.streams == other.mesh.streams == 1
    assert end.calls.connected
    assert end.events.away == [False, True, False]


async def test_its_own_is_asked_last(serve: Serve, node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which answers late, if at all: a lease may end meanwhile."""
    monkeypatch.setattr("random.sample", lambda found, number: list(found))  # else the other one is first half the time
    one, other = await serve(), await serve()
    one.mesh.reaches_store = False
    end = node(one, other)
    await until(lambda: bool(one.mesh.keep_alives))
    one.mesh.say(store_reach=AWAY)
    await until(lambda: bool(other.mesh.keep_alives))
    assert "store" not in one.mesh.asked
    assert end.calls.connected


async def test_without_another_one_it_stays(serve: Serve, node: MakeNode, caplog: pytest.LogCaptureFixture) -> None:
    """Where it is, with what it has; it looks no more once its own reaches the store again."""
    one, gone = await serve(), await serve()
    one.mesh.reaches_store = False
    await gone.stop()
    end = node(one, gone)
    with caplog.at_level(logging.INFO):
        await until(lambda: end.calls.connected)
        one.mesh.say(store_reach=AWAY)
        one.mesh.say(store_reach=AWAY)
        await until(lambda: one.mesh.asked.count("store") > 3)
        one.mesh.say(store_reach=BACK)
        await until(lambda: end.stream._search is None)
    assert one.mesh.streams == 1
    assert end.events.away == [False]
    assert caplog.text.count("the registry does not reach its store") == 1


async def test_a_registry_that_is_lost_meanwhile_is_replaced_as_ever(serve: Serve, node: MakeNode) -> None:
    """By the next one, whatever that reaches: it will say so itself."""
    one, other, end = await searching(serve, node)
    one.mesh.hang_up()
    await until(lambda: other.mesh.streams == 1)
    assert end.stream._search is None


async def test_the_end_leaves_nothing_open(serve: Serve, node: MakeNode) -> None:
    """In the middle of a search."""
    _, _, end = await searching(serve, node)
    await end.close()
