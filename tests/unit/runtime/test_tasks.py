"""Tasks that own something: what becomes of it when they are cut short."""

import asyncio
import gc
from typing import Any

import pytest
from portway_runtime.tasks import Tasks, fail


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


async def test_closing_cancels_what_runs_and_waits_for_it() -> None:
    """Also for a task that takes its time to end, and for those that start meanwhile; it may be repeated."""
    tasks = Tasks("test")
    ended: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            tasks.spawn(asyncio.sleep(3600), name="heir", on_cut=lambda: ended.append("heir"))
            await asyncio.sleep(0)
            ended.append("stubborn")

    tasks.spawn(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    assert len(tasks) == 1
    await tasks.close()
    assert (sorted(ended), len(tasks)) == (["heir", "stubborn"], 0)
    await tasks.close()


async def test_a_task_may_close_the_group_it_is_in() -> None:
    """It goes on; the others are over."""
    tasks = Tasks("test")
    other = tasks.spawn(asyncio.sleep(3600), name="other")
    await tasks.spawn(tasks.close(), name="closer")
    assert other.cancelled()
    assert len(tasks) == 0


async def test_a_failure_without_a_listener_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With the owner's name, the task's, and the traceback; the others run on."""

    async def fail() -> None:
        raise ValueError("no good")

    tasks = Tasks("owner")
    other = tasks.spawn(asyncio.sleep(3600), name="other")
    task = tasks.spawn(fail(), name="fail")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert "task ended early: owner: fail" in caplog.text
    assert "ValueError: no good" in caplog.text
    assert not other.done()
    await tasks.close()


async def test_waiting_for_the_end_may_be_given_up() -> None:
    """Cancelled, it leaves the tasks running."""
    tasks, gate = Tasks("test"), asyncio.Event()
    task = tasks.spawn(gate.wait(), name="wait")
    waiting = asyncio.ensure_future(tasks.over())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not task.done()
    gate.set()
    await tasks.over()
    assert task.done()


async def test_a_failure_that_nobody_waits_for_is_not_logged_by_asyncio() -> None:
    """Who waits gets it; of one who was cancelled meanwhile nothing is left."""
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: told.append(context))

    async def wait(future: asyncio.Future[None]) -> None:
        await future

    future: asyncio.Future[None] = loop.create_future()
    waiting = asyncio.ensure_future(wait(future))
    await asyncio.sleep(0)
    fail(future, OSError("first"))
    fail(future, OSError("second"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(OSError, match="first"):
        await future
    del future, waiting
    fail(loop.create_future(), OSError("nobody's"))
    gc.collect()
    assert told == []
