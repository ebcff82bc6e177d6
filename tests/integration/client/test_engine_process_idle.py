"""forward(process=True) while a child that had no tunnel ends: killed for want of memory between two tunnels, say.

Nobody has asked it for the next tunnel, which is opened in the next child.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import portway
import pytest
from portway.engine_process import engine_process as module
from portway.engine_process.child_process import ChildProcess
from portway.engine_process.engine_process import EngineProcess
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.processes.children import has_ended, kill_only_child
from portway_testkit.waiting import eventually

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment", "no_child_is_left")]


class Gate:
    """Where the thread that sees the end of a child stops until the test opens it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def stop(self) -> None:
        self.reached.set()
        assert self.opened.wait(30)


def before_it_is_noted(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    receive_all = EngineProcess._receive_all

    def held(engine: EngineProcess, child: ChildProcess) -> None:
        receive_all(engine, child)
        gate.stop()

    monkeypatch.setattr(EngineProcess, "_receive_all", held)


def before_it_is_waited_for(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = ChildProcess.wait

    def held(child: ChildProcess) -> str:
        gate.stop()
        return wait(child)

    monkeypatch.setattr(ChildProcess, "wait", held)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


def kill_idle() -> None:
    child = kill_only_child()
    eventually(lambda: has_ended(child))


@pytest.mark.parametrize("window", [before_it_is_noted, before_it_is_waited_for])
def test_a_tunnel_that_no_child_was_asked_for_is_opened_in_the_next(
    node: FakeNode,
    echo: Any,
    exchange: Any,
    monkeypatch: pytest.MonkeyPatch,
    gate: Gate,
    window: Callable[[Gate, pytest.MonkeyPatch], None],
) -> None:
    """Whatever of the end has been noted by then."""
    window(gate, monkeypatch)
    with portway.forward(8000, process=True):
        pass
    kill_idle()
    assert gate.reached.wait(30)
    opening = module.running_engine_process().open(portway.forward(echo.port)._arguments.checked())
    gate.opened.set()
    tunnel = opening.result(30)
    assert exchange(node, tunnel.public.host, b"hello") == b"hello"


def test_an_engine_that_ends_before_it_is_asked_is_followed_by_another(
    node: FakeNode, echo: Any, exchange: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking for it and asking it."""
    with portway.forward(8000, process=True):
        pass
    running = module.running_engine_process
    ended: list[EngineProcess] = []

    def ends() -> EngineProcess:
        engine = running()
        if not ended:
            ended.append(engine)
            kill_idle()
            eventually(lambda: not engine.alive)
        return engine

    monkeypatch.setattr(module, "running_engine_process", ends)
    with portway.forward(echo.port, process=True) as tunnel:
        assert exchange(node, tunnel.host, b"hello") == b"hello"
