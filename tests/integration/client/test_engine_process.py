"""forward(process=True) in this process: one child for all tunnels, and nothing differs from an engine in the program.

What holds for each engine is tested with both (`each_engine`). Programs of their own: test_engine_process_programs.py.
The child's start: test_engine_process_start.py. Its end: test_engine_process_ended.py.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import portway
import pytest
from portway.config import resolve
from portway.engine_process import engine_process as module
from portway.engine_process.child_process import _BOOTSTRAP
from portway.tunnel import TunnelRequest
from portway_proto.v1 import lane_pb2
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.processes.children import only_child
from portway_testkit.visitors.recovery import label_of
from portway_testkit.waiting import eventually

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment", "no_child_is_left")]

LOST = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_EPOCH, message="somebody has it")


def test_one_child_has_all_tunnels(node: FakeNode, echo: Any, exchange: Any) -> None:
    """One session with the node, too; the child stays for the next tunnel."""
    with portway.forward(echo.port, process=True) as one, portway.forward(1, process=True):
        child = only_child()
        assert exchange(node, one.host, b"x" * 3_000_000) == b"x" * 3_000_000
    with portway.forward(echo.port, process=True):
        assert only_child() == child
    assert node.count("hello") == 1
    node.wait(lambda: not node.tunnels)


def test_a_timeout_without_bound(node: FakeNode, echo: Any, exchange: Any) -> None:
    """More seconds than a lock can be waited for: 292 years."""
    with portway.forward(echo.port, process=True, timeout=1e12) as tunnel:
        assert exchange(node, tunnel.host, b"hello") == b"hello"


def test_a_program_may_use_both_engines(node: FakeNode, echo: Any, exchange: Any) -> None:
    """Each has a session of its own."""
    with portway.forward(echo.port, process=True) as one, portway.forward(echo.port, process=False) as other:
        assert exchange(node, one.host, b"hello") == exchange(node, other.host, b"hello") == b"hello"
    assert node.count("hello") == 2


def closed_registry(_: FakeRegistry, tmp_path: Path) -> dict[str, Any]:
    return {"registry": ["127.0.0.1:1", "localhost:1"]}  # a port that nobody listens on


def refusing(status: grpc.StatusCode) -> Callable[[FakeRegistry, Path], dict[str, Any]]:
    def refuse(registry: FakeRegistry, _: Path) -> dict[str, Any]:
        registry.refuse = status, f"no: ‹{status.name}›"
        return {}

    return refuse


def empty_key(_: FakeRegistry, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "empty").touch(0o600)
    return {"key": tmp_path / "empty"}


def own_key_twice(_: FakeRegistry, tmp_path: Path) -> dict[str, Any]:
    return {"port": 8001}


FAULTS: dict[str, tuple[type[portway.Error], Callable[[FakeRegistry, Path], dict[str, Any]]]] = {
    "unreachable": (portway.UnreachableError, closed_registry),
    "token": (portway.AuthError, refusing(grpc.StatusCode.UNAUTHENTICATED)),
    "quota": (portway.QuotaError, refusing(grpc.StatusCode.RESOURCE_EXHAUSTED)),
    "region": (portway.InvalidError, refusing(grpc.StatusCode.NOT_FOUND)),
    "remote": (portway.RemoteError, refusing(grpc.StatusCode.FAILED_PRECONDITION)),
    "key file": (portway.ConfigError, empty_key),
    "forwarded already": (portway.InvalidError, own_key_twice),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_are_those_of_an_engine_in_the_program(registry: FakeRegistry, tmp_path: Path, fault: str) -> None:
    """Class, text, and attempts."""
    kind, prepare = FAULTS[fault]
    raised: list[portway.Error] = []
    for process in (False, True):
        with portway.forward(8001, process=process):
            options = {"port": 8000} | prepare(registry, tmp_path)
            # Settings of its own: the link of the open tunnel asks no registry.
            options.setdefault("registry", [registry.address, "127.0.0.1:1"] if registry.refuse else None)
            with pytest.raises(portway.Error) as info, portway.forward(**options, process=process):
                pass
        registry.refuse = None
        raised.append(info.value)
    inside, apart = raised
    assert type(inside) is type(apart) is kind
    assert str(apart) == str(inside)
    assert getattr(apart, "attempts", ()) == getattr(inside, "attempts", ())


def test_log_lines_are_those_of_an_engine_in_the_program(
    node: FakeNode, echo: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Logger, level and text; this program's levels decide which it gets."""
    lines: dict[bool, list[tuple[str, int, str]]] = {}
    for process in (False, True):
        caplog.clear()
        with caplog.at_level(logging.INFO, "portway"), portway.forward(echo.port, process=process):
            node.drop_connections()
            eventually(lambda: any("attached to node one" in line for line in caplog.messages))
        lines[process] = [(one.name, one.levelno, one.getMessage().split(" after ")[0]) for one in caplog.records]
        node.wait(lambda: not node.tunnels)
    assert lines[True] == lines[False]
    assert [line[:2] for line in lines[True]] == [
        ("portway.engine.link", logging.WARNING),
        ("portway.engine.link", logging.INFO),
    ]
    assert {record.processName for record in caplog.records} == {"portway"}
    caplog.clear()
    with portway.forward(echo.port, process=True):
        node.drop_connections()
        eventually(lambda: any("attaching again" in line for line in caplog.messages))
        node.wait(lambda: node.count("hello") == 5)
        with portway.forward(1, process=True):
            pass  # what was logged before is here by now
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_lost_tunnel_is_told(node: FakeNode, echo: Any, log: Any) -> None:
    """To the callback, and to who leaves the block; without a callback it is an error in the log."""
    told: list[portway.TunnelLostError] = []
    forwarding = portway.forward(echo.port, process=True, tunnel_lost=told.append)
    tunnel = forwarding.__enter__()
    node.unbound(label_of(tunnel), LOST)
    eventually(lambda: told)
    with pytest.raises(portway.TunnelLostError) as raised:
        forwarding.__exit__(None, None, None)
    assert raised.value is told[0]
    assert (told[0].url, str(told[0].reason)) == (tunnel.url, "somebody has it")
    without = portway.forward(echo.port, process=True)
    node.unbound(label_of(without.__enter__()), LOST)
    log.wait(logging.ERROR, "is lost for good: somebody has it")
    with pytest.raises(portway.TunnelLostError):
        without.__exit__(None, None, None)


def test_warnings_of_the_child_are_the_program_s(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of libraries that only the child imports."""
    warns = (
        "; from portway.engine import engine_thread; import warnings; run = engine_thread.running_engine; "
        "engine_thread.running_engine = lambda: warnings.warn('of the child', DeprecationWarning) or run(); sys.exit"
    )
    monkeypatch.setattr("portway.engine_process.child_process._BOOTSTRAP", _BOOTSTRAP.replace("; sys.exit", warns))
    with pytest.warns(DeprecationWarning, match="of the child"), portway.forward(8000, process=True):
        pass


def test_a_program_that_stood_still_has_its_tunnels(
    node: FakeNode, echo: Any, exchange: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than a message may wait to be sent (Ctrl-Z, a debugger, a slow log handler), while the engine had more
    to say than the socket takes."""
    floods = (
        "; from portway.engine_process.channel import Channel; Channel.__init__.__defaults__ = (1,)"  # seconds, not 10
        "; from portway.engine import engine_thread; import logging; run = engine_thread.running_engine; "
        "engine_thread.running_engine = lambda: [logging.error('%01000d', 1) for _ in range(900)] and run()"
    )
    monkeypatch.setattr(
        "portway.engine_process.child_process._BOOTSTRAP", _BOOTSTRAP.replace("; sys.exit", f"{floods}; sys.exit")
    )
    stopped: list[logging.LogRecord] = []

    def stand_still(record: logging.LogRecord) -> bool:
        if not stopped:
            stopped.append(record)
            threading.Event().wait(2.5)
        return False

    logger = logging.getLogger()
    logger.addFilter(stand_still)
    try:
        with portway.forward(echo.port, process=True, timeout=60) as tunnel:
            child = only_child()
            assert stopped
            assert exchange(node, tunnel.host, b"hello") == b"hello"
            assert node.count("hello") == 1
            with portway.forward(8000, process=True):
                assert only_child() == child
    finally:
        logger.removeFilter(stand_still)


def test_a_closing_engine_takes_no_tunnel(node: FakeNode, echo: Any) -> None:
    """Neither a new one, nor the closing of one: it closes all of them in order."""
    forwarding = portway.forward(echo.port, process=True)
    forwarding.__enter__()
    engine = module.running_engine_process()
    child = only_child()
    os.kill(child, signal.SIGSTOP)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    eventually(lambda: not engine.alive)
    with pytest.raises(portway.RemoteError, match="open the tunnel again"):
        engine.open(TunnelRequest(8000, None, False, False, 10.0, resolve()))
    closing = threading.Thread(target=forwarding.__exit__, args=(None, None, None))
    closing.start()
    os.kill(child, signal.SIGCONT)
    for thread in (stopping, closing):
        thread.join()
    node.wait(lambda: ("goaway",) in node.events)


def test_the_thread_that_started_it_may_end(node: FakeNode, echo: Any, exchange: Any) -> None:
    """The child is the process's."""
    tunnels: list[portway.Tunnel] = []
    forwarding = portway.forward(echo.port, process=True)
    thread = threading.Thread(target=lambda: tunnels.append(forwarding.__enter__()))
    thread.start()
    thread.join()
    assert exchange(node, tunnels[0].host, b"hello") == b"hello"
    forwarding.__exit__(None, None, None)


def test_a_child_without_uvloop(node: FakeNode, echo: Any, exchange: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has asyncio's own loop."""
    without = _BOOTSTRAP.replace("; from", "; sys.modules['uvloop'] = None; from")
    monkeypatch.setattr("portway.engine_process.child_process._BOOTSTRAP", without)
    with portway.forward(echo.port, process=True) as tunnel:
        assert exchange(node, tunnel.host, b"x" * 3_000_000) == b"x" * 3_000_000


def test_it_sees_the_environment_and_the_folder_of_now(
    node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, echo: Any
) -> None:
    """As an engine in the program does: not those of its start."""
    with portway.forward(8000, process=True):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("OF_NOW", "here")
        with portway.forward(echo.port, process=True, key="own.key"):
            assert (tmp_path / "own.key").exists()
            child = only_child()
            assert Path(f"/proc/{child}/cwd").readlink() == tmp_path


def test_its_descriptors_and_its_session_are_its_own() -> None:
    """It inherits nothing but the channel: no pipe, no listener, no terminal."""
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    with portway.forward(8000, process=True):
        child = only_child()
        assert os.getsid(child) == child
        os.close(theirs)
        assert os.read(ours, 1) == b""  # nobody else has it
        os.close(ours)
        named = [Path(f"/proc/{child}/fd/{number}").readlink() for number in range(3)]
        assert named == [Path("/dev/null")] * 3


def test_a_filter_that_fails_ends_nothing(node: FakeNode, echo: Any, exchange: Any) -> None:
    """One of the program's own, for log lines."""

    def fail(_: logging.LogRecord) -> bool:
        raise ValueError("the program's own")

    logger = logging.getLogger("portway.engine.link")
    logger.addFilter(fail)
    try:
        with portway.forward(echo.port, process=True) as tunnel:
            node.drop_connections()
            node.wait(lambda: node.count("hello") == 2)
            assert exchange(node, tunnel.host, b"hello") == b"hello"
    finally:
        logger.removeFilter(fail)
    assert node.count("hello") == 2
