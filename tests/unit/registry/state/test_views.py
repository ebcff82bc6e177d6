"""The cluster in memory: decoded once, and found by more than its name."""

import logging
from collections.abc import AsyncIterator

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import Chain
from portway_registry.state import keys, views
from portway_registry.state.views import Item, LastHolder, TunnelView
from portway_registry.store.contract import Delete, Put
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.registry import tunnel_info
from portway_testkit.clusters.views import settle


@pytest.fixture
async def view(memory: EmbeddedStore) -> AsyncIterator[TunnelView]:
    view = TunnelView(memory, on_failure=print)
    await view.start()
    yield view
    await view.close()


def put(tunnel: TunnelInfo) -> Put:
    return Put(keys.tunnel(tunnel.label), tunnel.SerializeToString())


async def test_tunnels_are_found_by_node_and_by_token(memory: EmbeddedStore, view: TunnelView) -> None:
    """Both indices follow every change, and leave nothing behind."""
    chain, other = Chain(), Chain()
    await memory.write(
        [put(tunnel_info(chain, node="fra-1", token_id="a")), put(tunnel_info(other, node="fra-1", token_id="b"))]
    )
    await settle(memory, view.mirror)
    assert set(view.of_node("fra-1")) == {chain.label, other.label}
    assert set(view.of_token("a")) == {chain.label}
    await memory.write([put(tunnel_info(chain, 2, node="lon-1", token_id="a"))])
    await settle(memory, view.mirror)
    assert (set(view.of_node("fra-1")), set(view.of_node("lon-1"))) == ({other.label}, {chain.label})
    await memory.write([Delete(keys.tunnel(label)) for label in (chain.label, other.label)])
    await settle(memory, view.mirror)
    assert not any((view.of_node("fra-1"), view.of_node("lon-1"), view.of_token("a"), view.of_token("b")))
    assert not view.items


async def test_who_held_a_label_last_is_remembered(memory: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the highest epoch, and for as many labels as there is room for."""
    monkeypatch.setattr(views, "_REMEMBERED", 2)
    view = TunnelView(memory, on_failure=print)
    await view.start()
    chain = Chain()
    assert view.last_holder(chain.label) is None
    for node, epoch in (("fra-1", 2), ("lon-1", 3), ("fra-1", 1)):
        await memory.write([put(tunnel_info(chain, epoch, node=node))])
        await memory.write([Delete(keys.tunnel(chain.label))])
    await settle(memory, view.mirror)
    assert view.last_holder(chain.label) == LastHolder("lon-1", 3)
    for other in (Chain(), Chain()):
        await memory.write([put(tunnel_info(other))])
        await memory.write([Delete(keys.tunnel(other.label))])
    await settle(memory, view.mirror)
    assert view.last_holder(chain.label) is None
    await view.close()


async def test_a_record_that_cannot_be_read_is_passed_over(
    memory: EmbeddedStore, view: TunnelView, caplog: pytest.LogCaptureFixture
) -> None:
    """One broken value is said in the log, is not shown, and stops nothing; readable again it is new."""
    told: list[tuple[bool, bool]] = []
    view.subscribe(lambda old, new: told.append((old is not None, new is not None)))
    tunnel = tunnel_info(Chain())
    with caplog.at_level(logging.ERROR):
        await memory.write([Put(keys.tunnel("broken"), b"\xff\xff"), put(tunnel)])
        await settle(memory, view.mirror)
    assert set(view.items) == {tunnel.label}
    assert "cannot be read" in caplog.text
    await memory.write([Put(keys.tunnel(tunnel.label), b"\xff\xff")])
    await memory.write([put(tunnel), Delete(keys.tunnel("broken"))])
    await settle(memory, view.mirror)
    assert told == [(False, True), (True, False), (False, True)]


async def test_subscribers_are_told_the_change_and_leave(memory: EmbeddedStore, view: TunnelView) -> None:
    """Old and new, with the view changed already; a subscriber that left hears nothing, and may leave twice."""
    told: list[tuple[int, int, int]] = []

    def change(old: Item[TunnelInfo] | None, new: Item[TunnelInfo] | None) -> None:
        told.append((old.value.epoch if old else 0, new.value.epoch if new else 0, len(view.items)))

    leave = view.subscribe(change)
    chain = Chain()
    for write in (put(tunnel_info(chain, 1)), put(tunnel_info(chain, 2)), Delete(keys.tunnel(chain.label))):
        await memory.write([write])
    await settle(memory, view.mirror)
    assert told == [(0, 1, 1), (1, 2, 1), (2, 0, 0)]
    leave()
    leave()
    await memory.write([put(tunnel_info(chain, 3))])
    await settle(memory, view.mirror)
    assert len(told) == 3
