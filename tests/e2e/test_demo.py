"""scripts/demo: what it starts, what it writes, and that nothing of it stays."""

import os
import select
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import portway
import pytest
from portway.engine import engine_thread as thread
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.waiting import eventually

_DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo"
_END_WITHIN = 60.0

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo started with --env, ready."""

    process: subprocess.Popen[str]
    exports: dict[str, str]

    @property
    def folder(self) -> Path:
        return Path(self.exports["PORTWAY_DEMO_DIR"])

    def pids(self) -> dict[str, int]:
        return {path.stem: int(path.read_text()) for path in self.folder.glob("*.pid")}

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(_END_WITHIN)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_gone(pid: int) -> None:
    """Until a process that is not our child has ended."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        readable, _, _ = select.select([watched], [], [], _END_WITHIN)
        assert readable, f"process {pid} still runs"
    finally:
        os.close(watched)


@pytest.fixture
def temporary() -> Iterator[dict[str, str]]:
    """An environment whose temporary folder is the test's own; a short path, for it becomes part of others."""
    with tempfile.TemporaryDirectory(prefix="pw-") as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PORTWAY_")}
        yield {**kept, "TMPDIR": folder}


@pytest.fixture
def start_demo(temporary: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], Demo]]:
    started: list[subprocess.Popen[str]] = []

    def start(name: str) -> Demo:
        target = tmp_path / name
        process = subprocess.Popen(
            [_DEMO, "--env", target], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=temporary
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready"), "the demo ended before it was ready"
        lines = target.read_text().splitlines()
        assert all(line.startswith("export ") for line in lines)
        exports = dict(shlex.split(line)[1].split("=", 1) for line in lines)
        return Demo(process, exports)

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(_END_WITHIN)
        assert process.stdout is not None
        process.stdout.close()


def test_check_makes_one_request_and_leaves_nothing(temporary: dict[str, str]) -> None:
    """--check puts a page on a public address, asks for it, ends with 0 and leaves no folder."""
    done = subprocess.run(
        [_DEMO, "--check"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        env=temporary,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ".localhost:" in done.stdout
    assert "curl --cacert" in done.stdout
    assert "Hello from behind a tunnel" in done.stdout
    assert list(Path(temporary["TMPDIR"]).iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_that_it_started(start_demo: Callable[[str], Demo], number: int) -> None:
    """--env names a cluster that runs, with a log and a pid file each; a signal leaves no process and no secret."""
    demo = start_demo("env")
    assert set(demo.exports) == {
        "PORTWAY_REGISTRY",
        "PORTWAY_TOKEN",
        "PORTWAY_CA",
        "PORTWAY_DEMO_DIR",
        "PORTWAY_DEMO_NODES",
    }
    pids = demo.pids()
    nodes = dict(named.split("=") for named in demo.exports["PORTWAY_DEMO_NODES"].split(","))
    assert set(nodes) == set(pids) - {"registry"}
    assert set(pids) == {"registry", "relay-fra", "relay-iad", "relay-syd"}
    assert all(_is_running(pid) for pid in pids.values())
    assert {path.stem for path in demo.folder.glob("*.log")} == set(pids)
    assert b"BEGIN CERTIFICATE" in Path(demo.exports["PORTWAY_CA"]).read_bytes()

    assert demo.end(number) == 0
    assert [name for name, pid in pids.items() if _is_running(pid)] == []
    assert {path.suffix for path in demo.folder.iterdir()} <= {".log", ".pid"}


def test_two_run_side_by_side(start_demo: Callable[[str], Demo]) -> None:
    """Two demos share no port, and one that ends does not disturb the other."""
    first, second = start_demo("first"), start_demo("second")
    assert first.exports["PORTWAY_REGISTRY"] != second.exports["PORTWAY_REGISTRY"]
    assert first.end() == 0
    assert all(_is_running(pid) for pid in second.pids().values())
    host, _, port = second.exports["PORTWAY_REGISTRY"].rpartition(":")
    socket.create_connection((host, int(port)), timeout=5).close()


def test_a_killed_node_does_not_end_the_others(start_demo: Callable[[str], Demo]) -> None:
    """Whoever kills a node through its pid file finds the rest of the cluster running."""
    demo = start_demo("env")
    pids = demo.pids()
    killed = pids.pop("relay-iad")
    os.kill(killed, signal.SIGKILL)
    _wait_gone(killed)
    assert all(_is_running(pid) for pid in pids.values())
    assert demo.end() == 0


def test_a_demo_that_is_killed_takes_its_processes_along(start_demo: Callable[[str], Demo]) -> None:
    """SIGKILL leaves the demo no time to end anything, and still nothing runs on."""
    demo = start_demo("env")
    pids = demo.pids()
    assert demo.end(signal.SIGKILL) == -signal.SIGKILL
    for pid in pids.values():
        _wait_gone(pid)


def test_a_process_that_cannot_start_ends_the_demo_with_its_reason(temporary: dict[str, str]) -> None:
    """With its port taken the registry ends, and the demo shows the end of its log and exits with 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [_DEMO, "--check", "--registry-port", str(port)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            env=temporary,
            check=False,
        )
    assert done.returncode == 1
    assert "registry ended early" in done.stderr
    assert str(port) in done.stderr


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, timeout=30, check=False).returncode == 0


def test_a_url_works_through_each_node(start_demo: Callable[[str], Demo], monkeypatch: pytest.MonkeyPatch) -> None:
    """The three nodes are one mesh: whichever a visitor comes to, the tunnel is behind it."""
    demo = start_demo("env")
    for name in ("PORTWAY_REGISTRY", "PORTWAY_TOKEN", "PORTWAY_CA"):
        monkeypatch.setenv(name, demo.exports[name])
    try:
        with HttpOrigin() as origin, portway.forward(origin.port) as tunnel:
            for node in demo.exports["PORTWAY_DEMO_NODES"].split(","):
                address = node.partition("=")[2]
                command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*"]
                command += ["--cacert", demo.exports["PORTWAY_CA"], "--connect-to", f"::{address}", tunnel.url]
                eventually(lambda command=command: succeeds(command))  # type: ignore[misc]
    finally:
        thread.stop_engine()
    assert demo.end() == 0
