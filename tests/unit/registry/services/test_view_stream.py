"""A view as a stream of changes, for callers that read and for callers that do not."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from portway_proto.v1.admin_pb2 import (
    CHANGE_KIND_ADDED,
    CHANGE_KIND_CHANGED,
    CHANGE_KIND_KNOWN,
    CHANGE_KIND_REMOVED,
    CHANGE_KIND_SYNCED,
)
from portway_registry.errors import FellBehind
from portway_registry.services import view_stream
from portway_registry.services.view_stream import stream_view
from portway_registry.state import keys
from portway_registry.state.records import SettingsRecord, decoder, encode
from portway_registry.state.views import View
from portway_registry.store.contract import Delete, Put
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.views import settle

PATIENCE = 10.0
Message = tuple[int, str | None]


@pytest.fixture
async def view(memory: EmbeddedStore) -> AsyncIterator[View[SettingsRecord]]:
    view: View[SettingsRecord] = View(memory, keys.NODES, decoder(SettingsRecord), on_failure=print)
    await view.start()
    yield view
    await view.close()


def put(name: str, value: str) -> Put:
    return Put(keys.node(name), encode(SettingsRecord(value)))


def message(kind: int, value: SettingsRecord | None) -> Message:
    return kind, None if value is None else value.cluster_id


async def test_what_is_known_comes_first_then_each_change_once(
    memory: EmbeddedStore, view: View[SettingsRecord]
) -> None:
    """Also a change that happens while the known ones are still being written."""
    await memory.write([put("a", "1"), put("b", "1")])
    await settle(memory, view.mirror)
    heard: list[Message] = []
    changed = asyncio.Event()
    first = True

    async def write(message: Message) -> None:
        nonlocal first
        if first:
            first = False
            await memory.write([put("b", "2"), put("c", "1")])
            await settle(memory, view.mirror)
        heard.append(message)
        changed.set()

    watching_task = asyncio.ensure_future(stream_view(view, message, write))
    await memory.write([Delete(keys.node("a"))])
    async with asyncio.timeout(PATIENCE):
        while len(heard) < 6:
            changed.clear()
            await changed.wait()
    watching_task.cancel()
    await asyncio.wait([watching_task])
    assert sorted(heard[:2]) == [(CHANGE_KIND_KNOWN, "1"), (CHANGE_KIND_KNOWN, "1")]
    assert heard[2] == (CHANGE_KIND_SYNCED, None)
    rest = heard[3:]
    # The deletion and the others come from two writers; each is written once, a removal with what was there last.
    assert sorted(rest) == [(CHANGE_KIND_ADDED, "1"), (CHANGE_KIND_CHANGED, "2"), (CHANGE_KIND_REMOVED, "1")]


async def test_who_does_not_read_is_let_go(
    memory: EmbeddedStore, view: View[SettingsRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that is too far behind gets an error, and the changes that waited for it are released."""
    monkeypatch.setattr(view_stream, "_MAX_BACKLOG", 10)
    reads = asyncio.Event()

    async def write(message: Message) -> None:
        await reads.wait()

    watching_task = asyncio.ensure_future(stream_view(view, message, write))
    await asyncio.sleep(0)
    await memory.write([put(str(number), "x") for number in range(50)])
    await settle(memory, view.mirror)
    reads.set()
    with pytest.raises(FellBehind, match="watch again"):
        await asyncio.wait_for(watching_task, PATIENCE)
