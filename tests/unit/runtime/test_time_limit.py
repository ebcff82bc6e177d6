"""A time limit holds in a task that was cancelled and cleans up, and takes no cancellation away."""

import asyncio

import pytest
from portway_runtime.time_limit import time_limit

_LONG = 3600.0


async def test_what_takes_longer_ends() -> None:
    with pytest.raises(TimeoutError):
        async with time_limit(0):
            await asyncio.sleep(_LONG)


async def test_a_cancelled_task_cleans_up_to_the_end() -> None:
    """And is cancelled all the same."""
    done = []

    async def work() -> None:
        try:
            await asyncio.sleep(_LONG)
        finally:
            try:
                async with time_limit(0):
                    await asyncio.sleep(_LONG)
            except TimeoutError:
                done.append("given up")
            done.append("closed")

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["given up", "closed"]


@pytest.mark.parametrize("seconds", [0.0, _LONG])
async def test_a_task_that_is_cancelled_within_is_cancelled(seconds: float) -> None:
    """Also in the turn in which the time is over."""

    async def work() -> None:
        async with time_limit(seconds):
            await asyncio.sleep(_LONG)

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
