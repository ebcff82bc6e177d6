"""forward(process=True) where no child can be started: each reason is said, and nothing is left."""

import errno
import os
from pathlib import Path

import portway
import pytest
from portway.engine_process import engine_process as module
from portway.engine_process.child_process import _BOOTSTRAP
from portway_testkit.processes.children import engines_of
from portway_testkit.processes.descriptors import no_more_descriptors
from portway_testkit.processes.threads import no_more_threads

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment", "no_child_is_left")]

ENGINE = "portway.engine.engine_thread"


def test_a_value_that_is_no_choice() -> None:
    """It is refused before anything starts."""
    with pytest.raises(portway.InvalidError, match="process is True or False"):
        portway.forward(8000, process=1).__enter__()  # type: ignore[arg-type]


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/uwsgi"])
def test_a_program_without_an_interpreter(monkeypatch: pytest.MonkeyPatch, executable: str | None) -> None:
    """uwsgi, programs that embed Python: what sys.executable names must not be started."""
    monkeypatch.setattr("sys.executable", executable)
    with pytest.raises(portway.InvalidError, match="portway forward"):
        portway.forward(8000, process=True).__enter__()
    assert not engines_of(os.getpid())


def test_a_frozen_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyInstaller's: its executable is the program itself, which would start without end."""
    monkeypatch.setattr("sys.frozen", True, raising=False)
    with pytest.raises(portway.InvalidError, match="starts a Python interpreter"):
        portway.forward(8000, process=True).__enter__()


def test_an_interpreter_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python was removed while the program ran."""
    monkeypatch.setattr("sys.executable", str(tmp_path / "python3"))
    with pytest.raises(portway.RemoteError, match="could not start: No such file"):
        portway.forward(8000, process=True).__enter__()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; sys.exit(3)", "^Portway's process ended with exit code 3: open the tunnel again$"),
        (_BOOTSTRAP.replace("; from", f"; sys.modules[{ENGINE!r}] = None; from"), f"import of {ENGINE} halted"),
    ],
)
def test_a_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, program: str, reason: str) -> None:
    """Though nothing of it is printed."""
    monkeypatch.setattr("portway.engine_process.child_process._BOOTSTRAP", program)
    with pytest.raises(portway.RemoteError, match=reason):
        portway.forward(8000, process=True).__enter__()


def test_a_package_that_was_replaced_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade beside the running program: the two must be of one version."""
    monkeypatch.setattr(module, "VERSION", "0.0")
    with pytest.raises(portway.RemoteError, match=r"of version .*, the program of 0\.0: start the program again"):
        portway.forward(8000, process=True).__enter__()


def test_neither_thread_nor_descriptor_nor_process_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to raise, and the next try may work."""
    with no_more_threads(), pytest.raises(portway.RemoteError, match=r"could not start: .*ulimit -u"):
        portway.forward(8000, process=True).__enter__()
    with no_more_descriptors(), pytest.raises(portway.RemoteError, match=r"could not start: .*ulimit -n"):
        portway.forward(8000, ca="", process=True).__enter__()

    def refuse(*_: object, **__: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_spawn", refuse)
        with pytest.raises(portway.RemoteError, match=r"could not start: .*ulimit -u"):
            portway.forward(8000, process=True).__enter__()
    with portway.forward(8000, process=True):
        pass
