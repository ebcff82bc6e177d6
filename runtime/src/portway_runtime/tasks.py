"""Background tasks with a name, an owner and an end: nothing dies silently."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """The tasks of one owner.

    A task that raises is logged and reported to `on_failure`; without one it is only logged, so an owner whose loops
    must not end passes one. `close` cancels what is left and waits for it; it may be called again.
    """

    def __init__(self, owner: str, on_failure: Callable[[BaseException], None] | None = None) -> None:
        self._owner = owner
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(
        self, coroutine: Coroutine[Any, Any, T], *, name: str, on_cut: Callable[[], object] | None = None
    ) -> asyncio.Task[T]:
        """Start `coroutine` now, on the running loop.

        `on_cut` is called when it is cancelled or fails, also before its first step: no `finally` in it runs then.
        """
        task = asyncio.create_task(coroutine, name=f"{self._owner}: {name}")  # noqa: TID251 - the one place
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if on_cut is not None:
            task.add_done_callback(lambda task: on_cut() if task.cancelled() or task.exception() else None)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        logger.error("task ended early: %s", task.get_name(), exc_info=error)
        if self._on_failure is not None:
            self._on_failure(error)

    async def over(self) -> None:
        """Wait until none runs; cancelled, they run on."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel every task and wait until it is over; a task may close the group it is in."""
        current = asyncio.current_task()
        while pending := [task for task in self._tasks if task is not current]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending)
