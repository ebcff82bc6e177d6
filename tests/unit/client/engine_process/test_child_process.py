"""portway.engine_process.child_process: how the interpreter is called."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from portway.engine_process import child_process as module
from portway.engine_process.child_process import ChildProcess


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
