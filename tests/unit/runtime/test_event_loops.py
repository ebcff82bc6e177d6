"""The loop of a process of ours is made directly."""

import asyncio
import sys

import pytest
import uvloop
from portway_runtime.event_loops import new_event_loop

pytestmark = pytest.mark.shares_sockets  # a loop's own pair of sockets


def test_it_is_uvloop_s_where_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else asyncio's standard one."""
    loop = new_event_loop()
    assert isinstance(loop, uvloop.Loop)
    loop.close()
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_event_loop()
    assert isinstance(loop, asyncio.SelectorEventLoop)
    loop.close()
