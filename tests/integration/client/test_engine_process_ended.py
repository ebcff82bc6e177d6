"""forward(process=True) whose child is killed, stopped or refused: the next child, and what is lost.

A child without tunnels: test_engine_process_idle.py. With a whole cluster: tests/faults/test_engine_process_killed.py.
"""

import asyncio
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import portway
import pytest
from portway.engine_process import engine_process as module
from portway.engine_process.child_process import ChildProcess
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.processes.children import has_ended, kill_only_child, only_child
from portway_testkit.visitors.recovery import label_of
from portway_testkit.waiting import eventually

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment", "no_child_is_left")]

OPEN_AGAIN = r"^Portway's process was killed \(SIGKILL, perhaps for want of memory\): open the tunnel again$"


@pytest.mark.parametrize("kept", ["in memory", "in a file"])
def test_a_killed_engine_is_followed_by_another_with_the_same_urls(
    node: FakeNode, echo: Any, exchange: Any, log: Any, tmp_path: Path, kept: str
) -> None:
    """Also when the key file is gone by now; raw ports are asked for by their tickets. Closing closes them."""
    key = tmp_path / "key" if kept == "in a file" else ""
    with (
        portway.forward(echo.port, process=True, key=key, unencrypted=True) as tunnel,
        portway.forward(1, process=True) as other,
    ):
        if isinstance(key, Path):
            key.unlink()
        label = label_of(tunnel)
        labels = (label, label_of(other))
        for times in (2, 3):
            killed = kill_only_child()
            log.wait(logging.WARNING, "was killed (SIGKILL, perhaps for want of memory): starting another one for 2")
            node.wait(lambda times=times: all(len(node.epochs(one)) == times for one in labels))  # type: ignore[misc]
            node.wait(lambda: label in node.tunnels)
            assert exchange(node, tunnel.host, b"hello") == b"hello"
            assert has_ended(killed)
        assert node.tickets_shown(label)[1:] == [f"20001 {label}".encode()] * 2
        log.wait(logging.INFO, f"tunnel {label[:4]}… is open again")
        assert tunnel.tcp_socket == ("127.0.0.1", 20001)
    node.wait(lambda: not node.tunnels)


def test_a_next_engine_waits_for_what_passes(
    node: FakeNode, registry: FakeRegistry, echo: Any, exchange: Any, log: Any
) -> None:
    """No node is there when the engine is killed; when one is, the URL works."""
    with portway.forward(echo.port, process=True) as tunnel:
        node.stop()
        kill_only_child()
        log.wait(logging.INFO, "not attached yet, trying again")
        node.__enter__()
        node.wait(lambda: label_of(tunnel) in node.tunnels)
        assert exchange(node, tunnel.host, b"hello") == b"hello"


def test_a_next_engine_that_is_refused_loses_the_tunnels(node: FakeNode, registry: FakeRegistry, echo: Any) -> None:
    """The token was revoked meanwhile: no further try can help."""
    told: list[portway.TunnelLostError] = []
    forwarding = portway.forward(echo.port, process=True, tunnel_lost=told.append)
    tunnel = forwarding.__enter__()
    registry.refuse = grpc.StatusCode.UNAUTHENTICATED, "it was revoked"
    kill_only_child()
    eventually(lambda: told)
    assert (told[0].url, type(told[0].reason), str(told[0].reason)) == (tunnel.url, portway.AuthError, "it was revoked")
    with pytest.raises(portway.TunnelLostError):
        forwarding.__exit__(None, None, None)


async def test_an_opening_fails_with_its_engine(node: FakeNode) -> None:
    """With an error that says what happened; the next one has another engine."""
    node.silent = True
    opened = portway.forward(8000, process=True)
    entering = asyncio.ensure_future(opened.__aenter__())
    await asyncio.to_thread(node.wait, lambda: node.count("silent") >= 1)
    kill_only_child()
    with pytest.raises(portway.RemoteError, match=OPEN_AGAIN):
        await entering
    node.silent = False
    with opened:
        pass


def test_tunnels_are_lost_when_no_engine_can_be_started(
    node: FakeNode, echo: Any, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    """After some tries. The program is told why, and another try of its own may work."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)
    told: list[portway.TunnelLostError] = []

    class NoMore(ChildProcess):
        def __init__(self) -> None:
            raise portway.RemoteError("no memory")

    forwarding = portway.forward(echo.port, process=True, tunnel_lost=told.append)
    forwarding.__enter__()
    with monkeypatch.context() as patched:
        patched.setattr(module, "ChildProcess", NoMore)
        kill_only_child()
        eventually(lambda: told)
    with pytest.raises(portway.TunnelLostError):
        forwarding.__exit__(None, None, None)
    assert str(told[0].reason) == (
        "Portway's process was killed (SIGKILL, perhaps for want of memory), and another one could not be started (no "
        "memory): open the tunnel again"
    )
    log.wait(logging.WARNING, "its tunnels are lost")
    with portway.forward(echo.port, process=True):
        pass


def test_a_program_can_end_while_no_engine_can_be_started(
    node: FakeNode, echo: Any, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    """It does not wait for the next try, and nothing is told as lost."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 1000.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 1000.0)
    monkeypatch.setattr(module, "EXIT_TIMEOUT", 30.0)
    told: list[portway.TunnelLostError] = []

    class NoMore(ChildProcess):
        def __init__(self) -> None:
            raise portway.RemoteError("no memory")

    with portway.forward(echo.port, process=True, tunnel_lost=told.append):
        monkeypatch.setattr(module, "ChildProcess", NoMore)
        kill_only_child()
        log.wait(logging.WARNING, "could not be started (no memory): starting another one")
        began = time.monotonic()
        module.stop_engine_process()
        assert time.monotonic() - began < 20
    assert not told


def test_an_engine_that_is_stopped_hangs_nobody(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP: closing takes a limited time, and at the program's end it is killed."""
    monkeypatch.setattr("portway.engine.tunnel_handle.CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(module, "EXIT_TIMEOUT", 0.5)
    with portway.forward(8000, process=True):
        child = only_child()
        os.kill(child, signal.SIGSTOP)
    began = time.monotonic()
    module.stop_engine_process()
    assert time.monotonic() - began < 10
    assert has_ended(child)


def test_an_engine_that_does_not_answer_is_replaced(
    node: FakeNode, echo: Any, exchange: Any, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a tunnel fails in time, and those that are open come back in another process."""
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.5)
    with portway.forward(echo.port, process=True) as tunnel:
        os.kill(only_child(), signal.SIGSTOP)
        with pytest.raises(
            portway.RemoteError, match=r"^Portway's process was killed \(SIGKILL\): open the tunnel again$"
        ):
            portway.forward(8000, process=True, timeout=0.5).__enter__()
        log.wait(logging.WARNING, "does not answer")
        node.wait(lambda: len(node.epochs(label_of(tunnel))) == 2 and label_of(tunnel) in node.tunnels)
        assert exchange(node, tunnel.host, b"hello") == b"hello"
