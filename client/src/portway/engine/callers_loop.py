"""Waiting for the engine: on the thread of whoever opens a tunnel, or on its event loop: asyncio's, or trio's. anyio
runs on one of them.

No wait takes a thread more. Trio is imported by its user alone, never by this package. Not here: what is waited for
(tunnel_handle.py), the engine's own loop (engine_thread.py).
"""

import asyncio
import sys
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Final, TypeVar

from portway_runtime.os_threads import Event

from portway.errors import InvalidError

T = TypeVar("T")

ASYNCIO: Final = "asyncio"
TRIO: Final = "trio"


def result_of(future: Future[T], timeout: float | None = None) -> T:
    """Block until it is done, `timeout` seconds at most. Raises what it raises, and TimeoutError."""
    done = Event()
    future.add_done_callback(lambda _: done.set())
    if not done.wait_among_others(timeout):
        raise TimeoutError
    return future.result(0)


async def wait_for_result(future: Future[T]) -> T:
    """The future's result, or what it raises. When the future was cancelled, CancelledError of concurrent.futures; when
    the caller is, what its library raises.

    Raises InvalidError on a loop of another library.
    """
    if _library() == TRIO:
        await _done_on_trio(future)
        return future.result()
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise CancelledError from None


async def wait_until_done(future: Future[T], seconds: float) -> None:
    """Wait until it is done, or for so many seconds. Inside a cancelled scope of trio's it waits all the same, as in
    asyncio a task does that was cancelled before."""
    if _library() == TRIO:
        import trio

        with trio.CancelScope(deadline=trio.current_time() + seconds, shield=True):
            await _done_on_trio(future)
    else:
        done, _ = await asyncio.wait([asyncio.wrap_future(future)], timeout=seconds)
        for one in done:
            if not one.cancelled():
                one.exception()  # the caller asks `future`; of this one asyncio would log that nobody did


async def _done_on_trio(future: Future[T]) -> None:
    import trio

    token, done = trio.lowlevel.current_trio_token(), trio.Event()

    def tell(_: Future[T]) -> None:
        with suppress(trio.RunFinishedError):  # who waited is gone
            token.run_sync_soon(done.set)

    future.add_done_callback(tell)
    await done.wait()


def _library() -> str:
    """ASYNCIO or TRIO. sniffio, which trio brings along, knows best where both are in one thread."""
    sniffio, name = sys.modules.get("sniffio"), ""
    if sniffio is not None:
        with suppress(sniffio.AsyncLibraryNotFoundError):
            name = sniffio.current_async_library()
    if not name:
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            name = ASYNCIO
    if name not in (ASYNCIO, TRIO):
        where = f"under {name}" if name else "without a running event loop"
        raise InvalidError(
            f"forward() cannot be awaited {where}: use asyncio, trio or anyio, or `with forward(...)` in a thread"
        )
    return name
