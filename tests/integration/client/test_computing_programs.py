"""Programs that compute beside their tunnels: who is told so."""

import logging
import threading
from collections.abc import Iterator
from typing import Any

import portway
import pytest
from portway.engine import punctuality
from portway_testkit.fakes.fake_node import FakeNode

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment")]


@pytest.fixture
def computing() -> Iterator[None]:
    """A thread of this process computes."""
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.mark.usefixtures("computing")
def test_a_thread_that_computes_is_noticed(
    node: FakeNode, echo: Any, exchange: Any, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine waits for the interpreter at each of its looks."""
    monkeypatch.setattr(punctuality, "INTERVAL", 0.1)
    monkeypatch.setattr(punctuality, "COMPUTES", 0.1)  # on a busy machine the thread has less than a core
    with portway.forward(echo.port, process=False) as tunnel:
        assert exchange(node, tunnel.host, b"hello") == b"hello"
        log.wait(logging.WARNING, "this program computes")
        log.wait(logging.WARNING, "process=True")
