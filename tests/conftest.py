"""Fixtures of every test: whatever it has started must have ended when it ends."""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from portway_runtime.logs import BoundedHandler
from portway_testkit.file_scheduling import FileScheduling
from portway_testkit.fixtures import as_client, origin, own_time, store  # noqa: F401 - for every folder

_FD_DIRECTORY = Path("/proc/self/fd")
# gRPC releases closed channels in its own threads, within milliseconds where these get a processor.
_CLOSING_SECONDS = 10.0

# An example of a property has no time limit of its own: hypothesis gives one 200 ms, which a pause of the machine is
# longer than.
settings.register_profile("portway", settings.default, deadline=None)
settings.load_profile("portway")


def pytest_configure() -> None:
    """Restore SIGINT: a shell starts background jobs with SIGINT ignored, which children inherit, and Ctrl-C is
    tested. Forget the proxy of this machine: what is tested is on loopback."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling | None:
    """Where files are distributed; xdist chooses otherwise."""
    return FileScheduling(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Exclude everything that is imported by now from garbage collection, which runs after each test: it saves 50
    ms."""
    gc.collect()
    gc.freeze()


def _open_sockets() -> set[str]:
    """The open sockets of this process, by inode."""
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
    """Remove log handlers that a program has added in this process: their stderr is closed after the test."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if type(handler) in (logging.StreamHandler, BoundedHandler) and handler not in before:
            root.removeHandler(handler)
            root.setLevel(level)


@pytest.fixture(autouse=True)
def no_leaked_sockets(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test closes every socket that it opened; `shares_sockets` marks one with a module-wide server."""
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
    # After a cancelled call grpc.aio waits in a task of its own, which cannot be reached, on both sides.
    grpc_calls = {task for task in leaked if _is_grpc(task)}
    if grpc_calls:
        leaked -= (await asyncio.wait(grpc_calls, timeout=_CLOSING_SECONDS))[0]
    assert not leaked, f"tasks were left running: {sorted(task.get_name() for task in leaked)}"
