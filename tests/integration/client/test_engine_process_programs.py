"""Whole programs whose engine is in a process: how they are started, forked, interrupted and killed."""

import os
import signal
import subprocess
import zipapp
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.processes.children import children_of, has_ended, only_child
from portway_testkit.waiting import PATIENCE, eventually

pytestmark = pytest.mark.shares_sockets

Start = Callable[..., "subprocess.Popen[str]"]

# Without `if __name__ == "__main__"`: the child must not run it.
_PROGRAM = """
import os, sys
import portway

with portway.forward(int(sys.argv[1]), process=True) as tunnel:
    print(tunnel.host, flush=True)
    sys.stdin.readline()
"""
_AFTER_CTRL_C = """
import sys, threading
import portway

with portway.forward(int(sys.argv[1]), process=True) as tunnel:
    try:
        print(tunnel.host, flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    sys.stdin.readline()
"""
_FORKING = """
import os, signal, subprocess, sys
import portway

with portway.forward(int(sys.argv[1]), process=True) as tunnel:
    subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.readline()"], close_fds=False)
    if os.fork() == 0:
        os.close(1), os.close(2)
        sys.stdin.readline()
        os._exit(0)
    print(tunnel.host, flush=True)
    signal.pause()
"""
_WITHOUT_CHILDREN = f"import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n{_PROGRAM}"


def line(program: "subprocess.Popen[str]") -> str:
    assert program.stdout is not None
    text = program.stdout.readline().strip()
    assert text, program.communicate(timeout=PATIENCE)
    return text


def ended(program: "subprocess.Popen[str]", code: int = 0) -> None:
    """It ends once it is told to, and prints nothing more."""
    out, errors = program.communicate("\n", timeout=PATIENCE)
    assert (program.returncode, out, errors) == (code, "", "")


def ends_in_order(child: int, node: FakeNode) -> None:
    """The engine's process ends, and the node has heard that its tunnels are withdrawn."""
    eventually(lambda: has_ended(child))
    node.wait(lambda: ("goaway",) in node.events)


WAYS: dict[str, dict[str, Any]] = {
    "plainly": {},
    "isolated": {"flags": ("-I",)},
    "warnings are errors": {"flags": ("-W", "error")},
    "variables of Python": {"PYTHONINSPECT": "1", "PYTHONSTARTUP": "/nowhere", "PYTHONPROFILEIMPORTTIME": "1"},
    "no temporary folder": {"TMPDIR": "/nowhere", "HOME": "/nowhere"},
    "default locale": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("way", WAYS)
def test_it_starts_however_the_program_was_started(
    start_program: Start, node: FakeNode, echo: Any, exchange: Any, way: str
) -> None:
    """The program's file is not run again, and the child prints nothing."""
    program = start_program(_PROGRAM, str(echo.port), **WAYS[way])
    assert exchange(node, line(program), b"hello") == b"hello"
    child = only_child(program.pid)
    out, errors = program.communicate("\n", timeout=PATIENCE)
    assert (program.returncode, out) == (0, "")
    assert not errors or "PYTHONINSPECT" in WAYS[way], errors
    assert has_ended(child)
    node.wait(lambda: ("goaway",) in node.events)


def test_nothing_of_the_program_runs_in_it(
    start_program: Start, node: FakeNode, echo: Any, exchange: Any, tmp_path: Path
) -> None:
    """Neither its main module nor what PYTHONPATH brings into each interpreter; it imports from there all the same."""
    (tmp_path / "sitecustomize.py").write_text(f"print(file=open({str(tmp_path / 'ran')!r}, 'a'))")
    program = start_program(_PROGRAM, str(echo.port), PYTHONPATH=str(tmp_path))
    assert exchange(node, line(program), b"hello") == b"hello"
    ended(program)
    assert (tmp_path / "ran").read_text() == "\n"


def test_a_program_in_an_archive(start_python: Start, node: FakeNode, echo: Any, exchange: Any, tmp_path: Path) -> None:
    """A zipapp, in whose folder the program no longer is."""
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    source.mkdir()
    elsewhere.mkdir()
    (source / "__main__.py").write_text(f"import os\nos.chdir({str(elsewhere)!r})\n{_PROGRAM}")
    zipapp.create_archive(source, tmp_path / "app.pyz")
    program = start_python("app.pyz", str(echo.port), cwd=tmp_path)
    assert exchange(node, line(program), b"hello") == b"hello"
    ended(program)


def test_it_ends_with_a_program_that_is_killed(start_program: Start, node: FakeNode, echo: Any) -> None:
    """In order: its tunnels are withdrawn, which the program itself had no time for."""
    program = start_program(_PROGRAM, str(echo.port))
    line(program)
    child = only_child(program.pid)
    program.kill()
    ends_in_order(child, node)


def test_it_ends_though_others_of_the_program_live_on(start_program: Start, node: FakeNode, echo: Any) -> None:
    """It does not have the channel, and neither does a command that the program has started."""
    program = start_program(_FORKING, str(echo.port))
    line(program)
    (child,) = [pid for pid in children_of(program.pid) if os.getsid(pid) == pid]
    program.kill()
    ends_in_order(child, node)


def test_ctrl_c_is_for_the_program(start_program: Start, node: FakeNode, echo: Any, exchange: Any) -> None:
    """The terminal sends it to everybody. Visitors are served until the program closes the tunnel."""
    program = start_program(_AFTER_CTRL_C, str(echo.port))
    host = line(program)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(only_child(program.pid), number)
    os.killpg(program.pid, signal.SIGINT)
    assert line(program) == "interrupted"
    assert exchange(node, host, b"hello") == b"hello"
    ended(program)


def test_a_service_that_is_stopped(start_program: Start, node: FakeNode, echo: Any) -> None:
    """SIGTERM to all its processes, as systemd sends it: the tunnel is closed in order."""
    program = start_program(_PROGRAM, str(echo.port))
    line(program)
    child = only_child(program.pid)
    os.kill(child, signal.SIGTERM)
    program.terminate()
    ends_in_order(child, node)


def test_a_program_that_lets_the_system_wait(start_program: Start, node: FakeNode, echo: Any, exchange: Any) -> None:
    """It ignores SIGCHLD, so that nobody hears how a child ended. The next one is started all the same."""
    program = start_program(_WITHOUT_CHILDREN, str(echo.port))
    host = line(program)
    os.kill(only_child(program.pid), signal.SIGKILL)
    node.wait(lambda: len(node.epochs(host.partition(".")[0])) == 2 and host.partition(".")[0] in node.tunnels)
    assert exchange(node, host, b"hello") == b"hello"
    out, errors = program.communicate("\n", timeout=PATIENCE)
    assert (program.returncode, out) == (0, "")
    assert errors == "Portway's process has ended: starting another one for 1 tunnels\n"
