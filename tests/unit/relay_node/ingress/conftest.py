"""The public port's tests run on both loops: the node's is uvloop, the standard one is the reference."""

import asyncio
from collections.abc import Callable

import uvloop
from portway_testkit.fakes.front_door import around, authority, open_front  # noqa: F401 - for the tests of this folder


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
