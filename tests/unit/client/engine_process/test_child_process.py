"""portway.engine_process.child_process: how the interpreter is called."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from portway.engine_process import child_process as module
from portway.engine_process.child_process import EXIT_WITHIN, ChildProcess
from portway_runtime.clocks import Monotonic


class Spawned(Exception):
    """What posix_spawn was called with."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        super().__init__(command)
        self.command = command
        self.environment = environment


@pytest.fixture
def spawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started."""

    def refuse(path: str, command: list[str], environment: dict[str, str], **_: Any) -> int:
        raise Spawned(command, environment)

    monkeypatch.setattr(os, "posix_spawn", refuse)


def spawned() -> Spawned:
    with pytest.raises(Spawned) as info:
        ChildProcess()
    return info.value


@pytest.mark.usefixtures("spawn")
def test_its_modules_are_the_program_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With whole paths: the child goes where the program goes, and imports some of them late."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "relative", "/absolute", tmp_path / "no text"])
    command = spawned().command
    assert command[0] == sys.executable
    assert command[command.index("-c") + 1] == module._BOOTSTRAP
    assert command[command.index("-c") + 2 :] == [str(tmp_path), str(tmp_path / "relative"), "/absolute"]


@pytest.mark.usefixtures("spawn")
def test_what_is_written_where_is_the_program_s_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytecode: a folder that is read-only, or of somebody else."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "pycache_prefix", "/cache")
    command = spawned().command
    flags = command[: command.index("-c")]
    assert "-B" in flags
    assert "pycache_prefix=/cache" in flags


@pytest.mark.usefixtures("spawn")
def test_variables_of_python_are_the_program_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for where Python is."""
    for name in ("PYTHONWARNINGS", "PYTHONPATH", "PYTHONHOME", "OWN"):
        monkeypatch.setenv(name, "x")
    environment = spawned().environment
    assert environment["OWN"] == environment["PYTHONHOME"] == "x"
    assert not {"PYTHONWARNINGS", "PYTHONPATH"} & set(environment)


@pytest.mark.usefixtures("spawn")
def test_a_folder_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing can be imported from it, and the child starts all the same."""
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    monkeypatch.setattr(sys, "path", ["", "relative", "/absolute"])
    command = spawned().command
    assert command[command.index("-c") + 2 :] == ["/absolute"]


_UNBLOCK = "signal.pthread_sigmask(signal.SIG_SETMASK, ())"  # it starts with all of them blocked


Start = Callable[..., ChildProcess]


@pytest.fixture(params=["pidfd", "pid"])
def start(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Start:
    """Starts a child with another program, which has ended its channel when this returns. By descriptor, and by number
    as on macOS. Its time stands still unless the test says otherwise."""
    if request.param == "pid":
        monkeypatch.delattr(os, "pidfd_open")

    def start(program: str, clock: Monotonic = lambda: 0.0) -> ChildProcess:
        monkeypatch.setattr(module, "_BOOTSTRAP", f"import os, signal, sys, time; {_UNBLOCK}; {program}")
        child = ChildProcess(clock)
        assert child.channel.receive() is None
        return child

    return start


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("os.close(0); time.sleep(0.2); sys.exit(3)", "ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed (SIGKILL, perhaps for want of memory)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed (SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 1)", f"was killed (signal {signal.SIGRTMIN + 1})"),
    ],
)
def test_how_it_ended(start: Start, program: str, how: str) -> None:
    """Its channel ends before it does, which is waited for. Want of memory is only where somebody else killed it."""
    child = start(program)
    assert child.wait() == how
    child.kill()  # does nothing any more


def test_one_that_does_not_end_is_killed(start: Start) -> None:
    """It has a second."""
    readings = itertools.count(0.0, EXIT_WITHIN / 2)
    child = start("os.close(0); signal.pause()", lambda: next(readings))
    assert child.wait() == "was killed (SIGKILL)"
    assert next(readings) == 1.5 * EXIT_WITHIN
    child.kill()  # does nothing any more


def test_another_process_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program has waited for all its children, and another one has its number by now."""
    monkeypatch.setattr(module, "_BOOTSTRAP", "pass")
    child = ChildProcess()
    os.waitpid(child.pid, 0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        child.pid = other.pid
        child.kill()
        assert child.wait() == "has ended"
        child.kill()
        other.communicate(b"\n")
    assert other.returncode == 0
