"""Processes that are started together, started again one by one, and ended together.

Here: a log and a pid file for each, waiting for a ready file, the end in reverse order. Not here: what they run.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from portway_testkit.processes.ports import held_port

# Seconds. The first imports of a program take some on a slow disk; one that takes longer than this hangs.
START_WITHIN = 60.0
# Seconds for a tunnel of such a program, beside others that have just been started: less, so that it says why.
OPENS_WITHIN = 45.0
END_WITHIN = 15.0
LOG_TAIL = 20  # lines of a dead process's log that go into an error: enough for a traceback
_POLL = 0.02


class ProcessFailed(Exception):
    """A process ended early or did not become ready; the message holds the end of its log."""


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
    """The processes that were started, in order; leaving the context ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Process] = []
        self._held: list[socket.socket] = []  # a port each

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
        """Start `command` with its output in `<name>.log`. `ready_flag` adds --ready-file to the command line."""
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
                # What a killed process leaves in its temporary folder goes with this one.
                env={
                    **clean_environment(),
                    "TMPDIR": str(self.folder),
                    **(environment or {}),
                    "PYTHONUNBUFFERED": "1",
                },
                # Ctrl-C in the terminal goes to this process only, which ends the others in order.
                start_new_session=True,
            )
        process = Process(name, words, popen, log, self.folder / f"{name}.pid", ready_file)
        self._started.append(process)
        process.pid_file.write_text(f"{popen.pid}\n")
        return process

    def kept_port(self, host: str) -> int:
        """A free port of this machine's that is kept for a process until all are ended: it may come back to it after it
        was killed. Nobody else is given it."""
        holder = held_port(host)
        self._held.append(holder)
        port: int = holder.getsockname()[1]
        return port

    def wait_ready(self, process: Process, within: float = START_WITHIN) -> dict[str, Any]:
        """The content of its ready file, once it is there. Raises ProcessFailed when the process ends or takes too
        long."""
        ready_file = process.ready_file
        assert ready_file is not None
        self.wait_until(ready_file.exists, process, f"was not ready within {within:.0f} s", within)
        ready: dict[str, Any] = json.loads(ready_file.read_text())
        return ready

    def wait_until(self, holds: Callable[[], object], process: Process, failure: str, within: float) -> None:
        """Return once `holds()`. Raises ProcessFailed when any process ends, or with `failure` after `within`
        seconds."""
        deadline = time.monotonic() + within
        while not holds():
            self.check_alive()
            if time.monotonic() > deadline:
                raise process.failure(failure)
            time.sleep(_POLL)

    def check_alive(self) -> None:
        """Raise ProcessFailed when any of the processes has ended."""
        for process in self._started:
            if process.ended():
                raise process.failure(f"ended early ({_ending(process.popen.returncode)})")

    def forget_ended(self) -> list[Process]:
        """The processes that ended since the last call; they are no longer watched."""
        ended = [process for process in self._started if process.ended()]
        for process in ended:
            self._started.remove(process)
        return ended

    def __len__(self) -> int:
        return len(self._started)

    def end(self) -> None:
        """SIGTERM to each, the last started first; SIGKILL to one that does not end. May be repeated."""
        while self._started:
            process = self._started[-1]
            end_process(process.popen, process.name)
            self._started.pop()
        while self._held:
            self._held.pop().close()


class Restartable:
    """A process that is ended and started again on the addresses that it had. One with a ready file must be ready."""

    def __init__(self, processes: Processes, process: Process) -> None:
        self._processes = processes
        self.process = process
        self._command = list(process.command)
        ready = json.loads(process.ready_file.read_text()) if process.ready_file is not None else {}
        for name, address in ready.items():
            # A port that was 0 is the one that it got.
            flag = f"--{name.replace('_', '-')}"
            if flag in self._command:
                self._command[self._command.index(flag) + 1] = address

    @property
    def pid(self) -> int:
        return self.process.pid

    def ended(self) -> bool:
        return self.process.ended()

    def was_ready(self) -> bool:
        """Whether it has written its ready file since it was started."""
        return self.process.ready_file is not None and self.process.ready_file.exists()

    def signal(self, number: signal.Signals) -> None:
        self.process.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: it sends no goodbye, the kernel closes its sockets."""
        self.process.popen.kill()
        self.process.popen.wait()
        self._processes.forget_ended()

    def ask_to_end(self) -> None:
        """SIGTERM: it stops in order. Does not wait (`wait_end`)."""
        self.signal(signal.SIGTERM)

    def wait_end(self, within: float) -> bool:
        """Wait until it has ended. False when it took longer than `within` seconds; it has been killed then."""
        try:
            self.process.popen.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        self._processes.forget_ended()
        return True

    def drop_prefix(self, words: int) -> None:
        """Drop the first words of its command line, from the next start on."""
        del self._command[:words]

    def begin(self) -> None:
        """Start it again, without waiting."""
        with_ready_file = self.process.ready_file is not None
        self.process = self._processes.start(self.process.name, self._command, ready_flag=with_ready_file)

    def start(self) -> None:
        """Start it again and wait until it is ready. Raises ProcessFailed."""
        self.begin()
        self._processes.wait_ready(self.process)


def clean_environment() -> dict[str, str]:
    """This process's environment without proxies and without PORTWAY_ variables, except that of the carrier."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == "PORTWAY_CARRIER" or not (name.startswith("PORTWAY_") or name.lower().endswith("_proxy"))
    }


def end_process(popen: subprocess.Popen[bytes], name: str, within: float = END_WITHIN) -> None:
    """SIGTERM, then SIGKILL to the process and everything in its session after `within` seconds."""
    if popen.poll() is None:
        popen.terminate()
        try:
            popen.wait(within)
        except subprocess.TimeoutExpired:
            print(f"{name} did not end within {within:.0f} s of SIGTERM: killed", file=sys.stderr)
    # Processes that it started are in its session.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()


def _dying_with_parent() -> list[str]:
    """The prefix of a command that gets SIGTERM when this process dies in any way.

    Not preexec_fn: Python forks for it, and where gRPC runs in this process, its poller runs in the child too, on a
    descriptor that is being closed, and aborts the child before it becomes the command.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
