"""portway.engine.callers_loop: waiting for the engine under asyncio, trio and anyio."""

import asyncio
import gc
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import anyio
import pytest
import sniffio
import trio
import uvloop
from portway.engine.callers_loop import wait_for_result, wait_until_done
from portway.errors import InvalidError, QuotaError

Main = Callable[[], Awaitable[Any]]


def _on_asyncio(main: Main) -> Any:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(main())  # type: ignore[arg-type]


def _on_uvloop(main: Main) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())  # type: ignore[arg-type]


def _as_guest_of_asyncio(main: Main) -> Any:
    """Trio's tasks run inside callbacks of asyncio's loop, so that both are there."""

    async def host() -> Any:
        loop, ended = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        trio.lowlevel.start_guest_run(
            main, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=ended.set_result
        )
        return (await ended).unwrap()

    return _on_asyncio(host)


LIBRARIES: dict[str, Callable[[Main], Any]] = {
    "asyncio": _on_asyncio,
    "uvloop": _on_uvloop,
    "trio": trio.run,
    "trio as asyncio's guest": _as_guest_of_asyncio,
    "anyio on asyncio": lambda main: anyio.run(main, backend="asyncio"),
    "anyio on trio": lambda main: anyio.run(main, backend="trio"),
}


@pytest.fixture(params=LIBRARIES)
def run(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    return LIBRARIES[request.param]


@pytest.fixture
def future() -> "Future[str]":
    future: Future[str] = Future()
    future.set_running_or_notify_cancel()
    return future


def test_it_returns_what_another_thread_sets(run: Callable[[Main], Any], future: "Future[str]") -> None:
    """While the loop waits; and at once when it is there already."""

    async def main() -> tuple[str, str]:
        threading.Timer(0.01, future.set_result, ["done"]).start()
        return await wait_for_result(future), await wait_for_result(future)

    assert run(main) == ("done", "done")


def test_it_raises_what_another_thread_sets(run: Callable[[Main], Any], future: "Future[str]") -> None:
    """The very error."""
    error = QuotaError("no more")

    async def main() -> None:
        threading.Timer(0.01, future.set_exception, [error]).start()
        await wait_for_result(future)

    with pytest.raises(QuotaError) as raised:
        run(main)
    assert raised.value is error


def test_a_future_that_is_cancelled_cancels_no_caller(run: Callable[[Main], Any]) -> None:
    """It is another error than the library's own."""

    async def main() -> bool:
        future: Future[str] = Future()
        threading.Timer(0.01, future.cancel).start()
        try:
            await wait_for_result(future)
        except CancelledError:
            return True
        return False

    assert run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_caller_that_is_cancelled_waits_no_longer(backend: str) -> None:
    """Its scope ends as its library has it; what the future becomes later troubles nobody."""
    future: Future[str] = Future()

    async def main() -> bool:
        with anyio.move_on_after(0.01) as scope:
            await wait_for_result(future)
        return scope.cancelled_caught

    assert anyio.run(main, backend=backend)
    future.cancel()


def test_a_run_that_is_over_is_told_nothing(future: "Future[str]", caplog: pytest.LogCaptureFixture) -> None:
    """Trio's run has ended when the engine finishes."""

    async def main() -> None:
        with trio.move_on_after(0):
            await wait_for_result(future)

    trio.run(main)
    with caplog.at_level(logging.DEBUG):
        future.set_result("late")
    assert not caplog.records


def test_closing_is_waited_for_a_limited_time(run: Callable[[Main], Any], future: "Future[str]") -> None:
    """Done or not, nothing is raised."""

    async def main() -> None:
        await wait_until_done(future, 0.01)
        threading.Timer(0.01, future.set_result, ["done"]).start()
        await wait_until_done(future, 30)
        assert future.done()

    run(main)
    gc.collect()


def test_closing_is_waited_for_in_a_cancelled_scope(future: "Future[str]") -> None:
    """A block that trio has cancelled is left only when its tunnel is closed."""

    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            threading.Timer(0.01, future.set_result, ["done"]).start()
            await wait_until_done(future, 30)
        assert future.done()

    trio.run(main)


@pytest.mark.parametrize(("name", "where"), [("curio", "under curio"), (None, "without a running event loop")])
def test_another_library_is_told_what_to_use(future: "Future[str]", name: str | None, where: str) -> None:
    """In one sentence."""
    before = sniffio.current_async_library_cvar.set(name)
    waiting = wait_for_result(future)
    try:
        with pytest.raises(InvalidError, match=rf"cannot be awaited {where}: use asyncio, trio or anyio, or `with"):
            waiting.send(None)
    finally:
        waiting.close()
        sniffio.current_async_library_cvar.reset(before)


@pytest.mark.parametrize("library", ["asyncio", "uvloop", "anyio on asyncio"])
def test_a_failure_that_is_waited_for_is_not_logged(library: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who waits until it is done asks the future itself; asyncio would log its own, whose exception nobody asked
    for."""
    future: Future[str] = Future()

    async def main(future: "Future[str]" = future) -> None:
        threading.Timer(0.01, future.set_exception, [QuotaError("no more")]).start()
        await wait_until_done(future, 10.0)
        assert isinstance(future.exception(0), QuotaError)

    with caplog.at_level(logging.ERROR, "asyncio"):
        LIBRARIES[library](main)
        del future, main
        gc.collect()
    assert not caplog.records
