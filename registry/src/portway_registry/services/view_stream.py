"""A view as a gRPC stream: the records known at first, a mark after them, then each change."""

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

# Changes that wait for a caller that does not read: at some 300 bytes each 3 MB.
_MAX_BACKLOG: Final = 10_000

T = TypeVar("T")
Message = TypeVar("Message")


async def stream_view(
    view: View[T],
    message: Callable[["ChangeKind.ValueType", T | None], Message],
    write: Callable[[Message], Awaitable[None]],
) -> None:
    """Write the view and its changes until the call is cancelled.

    `message` makes the message for a kind of change and a record (None for the mark, CHANGE_KIND_SYNCED).
    Raises FellBehind when more than _MAX_BACKLOG changes wait for a caller that does not read.
    """
    changes: asyncio.Queue[Message] = asyncio.Queue()

    def on_change(old: Item[T] | None, new: Item[T] | None) -> None:
        if changes.qsize() > _MAX_BACKLOG:
            return
        if new is None:
            changes.put_nowait(message(CHANGE_KIND_REMOVED, None if old is None else old.value))
        else:
            changes.put_nowait(message(CHANGE_KIND_ADDED if old is None else CHANGE_KIND_CHANGED, new.value))

    known = list(view.values())
    unsubscribe = view.subscribe(on_change)
    try:
        for value in known:
            await write(message(CHANGE_KIND_KNOWN, value))
        await write(message(CHANGE_KIND_SYNCED, None))
        while changes.qsize() <= _MAX_BACKLOG:
            await write(await changes.get())
    finally:
        unsubscribe()
    raise FellBehind("changes came faster than they were read: watch again from the start")
