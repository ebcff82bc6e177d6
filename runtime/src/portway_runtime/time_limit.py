"""A time limit for what is done while a task ends, also when it ends because it was cancelled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError when the block takes longer. A task that is cancelled meanwhile is cancelled.

    As asyncio.timeout, which before Python 3.11.4 raises CancelledError in a task that was cancelled before the block
    and cleans up there: what comes after it would not be closed (https://github.com/python/cpython/issues/102780).
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except asyncio.CancelledError:
        if limit.expired() and task.cancelling() <= before:
            raise TimeoutError from None
        raise
