"""Waiting until views show something."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from portway_registry.state.views import View


async def until(
    reached: Callable[[], bool],
    views: Iterable[View[Any]],
    within: float,
    *,
    look: Callable[[], Awaitable[object]] | None = None,
) -> bool:
    """Return once it is reached, which is asked now and at each change of `views`, or after `within` seconds; whether
    it is. look: is awaited each time that it is not. Raises what `reached` and `look` raise."""
    changed = asyncio.Event()
    subscribed = [view.subscribe(lambda old, new: changed.set()) for view in views]
    try:
        async with asyncio.timeout(within):
            while not reached():
                changed.clear()
                if look is not None:
                    await look()
                await changed.wait()
    except TimeoutError:
        return reached()
    finally:
        for unsubscribe in subscribed:
            unsubscribe()
    return True
