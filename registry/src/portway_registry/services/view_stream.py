"""A view as a stream: what is known, that this was all, then each change."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from portway_proto.v1.admin_pb2 import (
    CHANGE_KIND_ADDED,
    CHANGE_KIND_CHANGED,
    CHANGE_KIND_KNOWN,
    CHANGE_KIND_REMOVED,
    CHANGE_KIND_SYNCED,
    ChangeKind,
)

from portway_registry.errors import FellBehind
from portway_registry.state.views import Item, View

# Changes kept for a watcher that does not read; at some 300 bytes each it may hold 3 MB.
_BACKLOG: Final = 10_000

T = TypeVar("T")
Message = TypeVar("Message")


async def watch(
    view: View[T],
    told: Callable[["ChangeKind.ValueType", T | None], Message],
    write: Callable[[Message], Awaitable[None]],
) -> None:
    """Write the view and its changes until the caller leaves. Raises FellBehind when it does not read."""
    changes: asyncio.Queue[Message] = asyncio.Queue()

    def changed(old: Item[T] | None, new: Item[T] | None) -> None:
        if changes.qsize() > _BACKLOG:
            return
        if new is None:
            changes.put_nowait(told(CHANGE_KIND_REMOVED, None if old is None else old.value))
        else:
            changes.put_nowait(told(CHANGE_KIND_ADDED if old is None else CHANGE_KIND_CHANGED, new.value))

    known = list(view.values())
    unsubscribe = view.subscribe(changed)
    try:
        for value in known:
            await write(told(CHANGE_KIND_KNOWN, value))
        await write(told(CHANGE_KIND_SYNCED, None))
        while changes.qsize() <= _BACKLOG:
            await write(await changes.get())
    finally:
        unsubscribe()
    raise FellBehind("changes came faster than they were read: watch again from the start")
