"""Tasks that own something: what becomes of it when they are cut short."""

import asyncio

import pytest
from portway_runtime.tasks import Tasks


@pytest.mark.parametrize("steps", [0, 1])
async def test_what_a_cancelled_task_owns_is_let_go_of(steps: int) -> None:
    """Also of one that was cancelled before its first step, which a `finally` in it would not see."""
    tasks, cut = Tasks("test"), asyncio.Event()
    task = tasks.spawn(asyncio.sleep(3600), name="sleep", on_cut=cut.set)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait_for(cut.wait(), 10)
    await tasks.close()


async def test_what_a_task_that_failed_owns_is_let_go_of() -> None:
    """And its owner is told why."""

    async def fail() -> None:
        raise ValueError("no good")

    failures: list[BaseException] = []
    tasks, cut = Tasks("test", failures.append), asyncio.Event()
    tasks.spawn(fail(), name="fail", on_cut=cut.set)
    await asyncio.wait_for(cut.wait(), 10)
    assert [str(failure) for failure in failures] == ["no good"]


async def test_a_task_that_ends_has_given_away_what_it_owned() -> None:
    """Nothing is let go of behind its back."""
    tasks, cut = Tasks("test"), asyncio.Event()
    await tasks.spawn(asyncio.sleep(0), name="end", on_cut=cut.set)
    await tasks.over()
    await asyncio.sleep(0)
    assert not cut.is_set()
