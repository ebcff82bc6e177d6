"""Processes that are started together and end together.

Here: a log and a pid file for each, waiting for a ready file, the end in reverse order. Not here: what they run.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Imports of a program that was never run take seconds on a slow disk; more than this and it hangs.
START_WITHIN = 60.0
END_WITHIN = 15.0
LOG_TAIL = 20  # lines of a dead process's log that say why, a traceback included
_POLL = 0.02


class ProcessFailed(Exception):
    """A process ended, or did not get ready; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Process:
    name: str
    command: tuple[str, ...]  # without the ready file's flag
    popen: subprocess.Popen[bytes]
    log: Path
    pid_file: Path
    ready_file: Path | None

    @property
    def pid(self) -> int:
        return self.popen.pid

    def ended(self) -> bool:
        return self.popen.poll() is not None

    def failure(self, what: str) -> ProcessFailed:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:]
        tail = "\n".join(f"    {line}" for line in lines) or "    (its log is empty)"
        return ProcessFailed(f"{self.name} {what}; the end of {self.log}:\n{tail}")


class Processes:
    """What was started, in order; leaving the context ends all of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        ready_flag: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start `command`, its output in `<name>.log`. With `ready_flag` it is given --ready-file."""
        log = self.folder / f"{name}.log"
        ready_file = self.folder / f"{name}.ready" if ready_flag else None
        words = tuple(str(part) for part in command)
        arguments = [*_dying_with_parent(), *words]
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
            arguments += ["--ready-file", str(ready_file)]
        with log.open("ab") as output:
            popen = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**clean_environment(), **(environment or {}), "PYTHONUNBUFFERED": "1"},
                # A Ctrl-C at the terminal goes to us alone, and we end them in order.
                start_new_session=True,
            )
        process = Process(name, words, popen, log, self.folder / f"{name}.pid", ready_file)
        self._started.append(process)
        process.pid_file.write_text(f"{popen.pid}\n")
        return process

    def wait_ready(self, process: Process, within: float = START_WITHIN) -> dict[str, Any]:
        """What the process wrote to its ready file. Raises ProcessFailed when it ends or takes too long."""
        ready_file = process.ready_file
        assert ready_file is not None
        self.wait_until(ready_file.exists, process, f"was not ready within {within:.0f} s", within)
        told: dict[str, Any] = json.loads(ready_file.read_text())
        return told

    def wait_until(self, holds: Callable[[], object], process: Process, failure: str, within: float) -> None:
        """Raises ProcessFailed: when one that was started ends; with this one's `failure` when it takes too long."""
        deadline = time.monotonic() + within
        while not holds():
            self.check_alive()
            if time.monotonic() > deadline:
                raise process.failure(failure)
            time.sleep(_POLL)

    def check_alive(self) -> None:
        """Raise ProcessFailed when one that was started has ended."""
        for process in self._started:
            if process.ended():
                raise process.failure(f"ended early ({_ending(process.popen.returncode)})")

    def forget_ended(self) -> list[Process]:
        """Those that ended since the last call, no longer ours."""
        ended = [process for process in self._started if process.ended()]
        for process in ended:
            self._started.remove(process)
        return ended

    def __len__(self) -> int:
        return len(self._started)

    def end(self) -> None:
        """SIGTERM to each, the last started first, and SIGKILL to what has not ended then. May be repeated."""
        while self._started:
            process = self._started[-1]
            end_process(process.popen, process.name)
            self._started.pop()


def clean_environment() -> dict[str, str]:
    """Ours, without what would configure Portway's programs (but for the carrier) or send loopback to a proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == "PORTWAY_CARRIER" or not (name.startswith("PORTWAY_") or name.lower().endswith("_proxy"))
    }


def end_process(popen: subprocess.Popen[bytes], name: str, within: float = END_WITHIN) -> None:
    """Ask a process to end; force it when it does not."""
    if popen.poll() is None:
        popen.terminate()
        try:
            popen.wait(within)
        except subprocess.TimeoutExpired:
            print(f"{name} did not end within {within:.0f} s of SIGTERM: killed", file=sys.stderr)
    # What it started itself is in its session and goes with it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()


def _dying_with_parent() -> list[str]:
    """What goes before a command that is to get SIGTERM when this process dies, however it does.

    Not by preexec_fn: Python then forks, and where gRPC runs in this process its poller runs in the child as well, on
    a descriptor that is being closed, and aborts it before it has become the command.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
