"""The cluster in memory: decoded once, and found by more than its name."""

import logging
from collections.abc import AsyncIterator

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import SigningKey
from portway_registry.state import keys
from portway_registry.state.records import TokenRecord, decoder
from portway_registry.state.views import Item, PresenceView, TunnelView, View
from portway_registry.store.contract import Delete, Put
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.registry import tunnel_info
from portway_testkit.clusters.views import settle
from portway_testkit.signers import SessionSigner, label_of


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
    key, other = SigningKey(), SigningKey()
    await memory.write(
        [put(tunnel_info(key, node="fra-1", token_id="a")), put(tunnel_info(other, node="fra-1", token_id="b"))]
    )
    await settle(memory, view.mirror)
    assert set(view.of_node("fra-1")) == {label_of(key), label_of(other)}
    assert set(view.of_token("a")) == {label_of(key)}
    await memory.write([put(tunnel_info(key, 2, node="lon-1", token_id="a"))])
    await settle(memory, view.mirror)
    assert (set(view.of_node("fra-1")), set(view.of_node("lon-1"))) == ({label_of(other)}, {label_of(key)})
    await memory.write([Delete(keys.tunnel(label)) for label in (label_of(key), label_of(other))])
    await settle(memory, view.mirror)
    assert not any((view.of_node("fra-1"), view.of_node("lon-1"), view.of_token("a"), view.of_token("b")))
    assert not view.items


async def test_the_size_of_a_node_s_presences_is_counted(memory: EmbeddedStore) -> None:
    """It follows each change, a session that moves to another node too, and leaves nothing behind."""
    view = PresenceView(memory, on_failure=print)
    await view.start()
    signer = SessionSigner()
    key = keys.presence(signer.key.public)
    here, there = (signer.present(node, signer.claim(node=node)) for node in ("fra-1", "lon-1"))
    await memory.put(key, here.encoded)
    await settle(memory, view.mirror)
    assert (view.bytes_of_node("fra-1"), view.bytes_of_node("lon-1")) == (len(here.encoded), 0)
    stored = view.of_session(signer.key.public)
    assert stored is not None
    assert (stored.value.node, stored.value.time_ms, stored.value.encoded) == ("fra-1", here.time_ms, here.encoded)
    await memory.put(key, there.encoded)
    await settle(memory, view.mirror)
    assert (view.bytes_of_node("fra-1"), view.bytes_of_node("lon-1")) == (0, len(there.encoded))
    await memory.delete(key)
    await settle(memory, view.mirror)
    assert (view.bytes_of_node("lon-1"), view.of_session(signer.key.public)) == (0, None)
    await view.close()


async def test_a_record_that_cannot_be_read_is_passed_over(
    memory: EmbeddedStore, view: TunnelView, caplog: pytest.LogCaptureFixture
) -> None:
    """One broken value is said in the log, is not shown, and stops nothing; readable again it is new."""
    told: list[tuple[bool, bool]] = []
    view.subscribe(lambda old, new: told.append((old is not None, new is not None)))
    tunnel = tunnel_info()
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
    key = SigningKey()
    for write in (put(tunnel_info(key, 1)), put(tunnel_info(key, 2)), Delete(keys.tunnel(label_of(key)))):
        await memory.write([write])
    await settle(memory, view.mirror)
    assert told == [(0, 1, 1), (1, 2, 1), (2, 0, 0)]
    leave()
    leave()
    await memory.write([put(tunnel_info(key, 3))])
    await settle(memory, view.mirror)
    assert len(told) == 3


async def test_a_damaged_record_is_named_once_and_a_label_never(
    memory: EmbeddedStore, view: TunnelView, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is read; a label is a secret, and so is what a session's key is called."""
    tokens: View[TokenRecord] = View(memory, keys.TOKENS, decoder(TokenRecord), on_failure=print)
    await tokens.start()
    await memory.put(keys.token("abc"), b"noise")
    await memory.put(keys.tunnel("a" * 16), b"\xff")
    await settle(memory, view.mirror, tokens.mirror)
    await tokens.read(["abc", "abc"])
    await view.read(["a" * 16])
    assert [record.__dict__["key"] for record in caplog.records] == [keys.token("abc"), f"{keys.TUNNELS}..."]
    assert "a" * 16 not in caplog.text
    await memory.put(keys.token("abc"), b"other noise")
    await settle(memory, tokens.mirror)
    assert len(caplog.records) == 3
    await tokens.close()
