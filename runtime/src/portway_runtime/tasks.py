"""Groups of background tasks: each task has a name, an owner that closes it, and a failure that is noticed. And the
failure of a future that perhaps nobody waits for any more."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Let `future` raise `error` for who waits for it; nothing when it is done.

    Who waited may have been cancelled: asyncio does not log then that the exception was never retrieved.
    """
    if not future.done():
        future.set_exception(error)
        future.exception()


class Tasks:
    """The tasks of one owner, which calls `close` at its end.

    A task that raises is logged and reported to `on_failure`. Without `on_failure` it is only logged, so an owner whose
    tasks must not end early passes one.
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
        """Start `coroutine` as a task of the running loop.

        on_cut: called when the task is cancelled or fails. A task that is cancelled before its first step runs no
            `finally`, so what the task owns is released here.
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
        """Wait until no task runs. When this wait is cancelled, the tasks continue."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended. May be called again, and by a task of the group."""
        current = asyncio.current_task()
        while pending := [task for task in self._tasks if task is not current]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending)
