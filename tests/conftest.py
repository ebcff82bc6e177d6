"""What every test gets: nothing it started may outlive it."""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from portway_testkit.fixtures import as_client, origin, store  # noqa: F401 - for every folder

_FD_DIRECTORY = Path("/proc/self/fd")
_CLOSING_SECONDS = 1.0  # gRPC lets go of closed channels in threads of its own, within milliseconds


def pytest_configure() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and children inherit that: Ctrl-C must be tested
    wherever the tests are run from."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported by now stays: collections after each test need not look at it again, which costs 50 ms each."""
    gc.collect()
    gc.freeze()


def _open_sockets() -> set[str]:
    """The sockets this process holds, by inode."""
    found = set()
    for name in os.listdir(_FD_DIRECTORY):  # noqa: PTH208 - a path object for each would open more of them
        try:
            target = os.readlink(_FD_DIRECTORY / name)  # noqa: PTH115 - as above
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture(autouse=True)
def no_leaked_log() -> Iterator[None]:
    """A program that a test runs in this process logs to that test's stderr, which is closed after it."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            root.removeHandler(handler)
            root.setLevel(level)


@pytest.fixture(autouse=True)
def no_leaked_sockets(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test closes every socket it opened. Mark with `shares_sockets` what keeps a module-wide server."""
    if request.node.get_closest_marker("shares_sockets") or not _FD_DIRECTORY.exists():
        yield
        return
    before = _open_sockets()
    yield
    gc.collect()
    deadline = time.monotonic() + _CLOSING_SECONDS
    while (leaked := _open_sockets() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not leaked, f"{len(leaked)} sockets were left open: {sorted(leaked)}"


def _is_grpc(task: "asyncio.Task[object]") -> bool:
    if task.get_name().startswith("HandleExceptions[/"):
        return True
    name: str = getattr(task.get_coro(), "__qualname__", "")
    return "_AioCall." in name or name.endswith(("StreamStreamCall._prepare_rpc", "_schedule_rpc_coro"))


@pytest.fixture(autouse=True)
async def no_leaked_tasks() -> AsyncIterator[None]:
    """A test ends every task it started."""
    before = asyncio.all_tasks()
    yield
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    # grpc.aio waits in a task of its own, which nobody can reach, for a call that was cancelled, on either side.
    grpc_calls = {task for task in leaked if _is_grpc(task)}
    if grpc_calls:
        leaked -= (await asyncio.wait(grpc_calls, timeout=_CLOSING_SECONDS))[0]
    assert not leaked, f"tasks were left running: {sorted(task.get_name() for task in leaked)}"
