"""What the tests of this folder stand on."""

import asyncio
from collections.abc import Callable
from typing import Final

import pytest
import uvloop
from portway_testkit.fakes.clock import ManualClock

# What has to do with sockets and threads that a loop has its own way with.
_ON_BOTH_LOOPS: Final = ("test_names.py", "test_dialling.py", "test_listener.py")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    return loops | {"uvloop": uvloop.new_event_loop} if item.path.name in _ON_BOTH_LOOPS else loops


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
