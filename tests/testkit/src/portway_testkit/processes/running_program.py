"""A program as its user runs it: the lines it prints, a signal, its exit code, and no process left behind.

Here: finding an installed program; the process and its descendants, watched until they have ended. Not here: which
program it is.
"""

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import pytest

PATIENCE = 60.0  # seconds: enough for the slowest program, a JupyterLab, on a busy machine
_STAT = "/proc/{}/stat"
_PARENT = 1  # index of the parent's pid among the fields after the program's name
# Debian keeps these out of a user's PATH; scripts/setup builds programs into the last ones.
_MORE_FOLDERS = (
    *("/usr/sbin", "/sbin"),
    *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))),
    *map(str, sorted(Path(__file__).parents[5].glob(".tools/go-*"))),
)


def needed(name: str) -> str:
    """The path of an installed program. If it is missing, the test is skipped; in CI, which runs every test, it
    fails."""
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_MORE_FOLDERS)))
    if found is None:
        reason = f"{name} is not installed: ./scripts/setup --e2e, as root, installs what the tests drive"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class RunningProgram:
    """`with RunningProgram(command, environment, log) as program:` runs it; leaving the block kills all of it.

    Its standard error goes to the file `log`.
    """

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._environment = environment
        self._log = log
        self._watched: dict[int, int] = {}  # pidfds, by process
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                bufsize=0,  # select does not see bytes that were read ahead
            )
        return self

    def __exit__(self, *_: object) -> None:
        with self._held:
            if self._process.poll() is None:
                self._watch()
            for descriptor in self._watched.values():
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            self._process.wait(PATIENCE)
            assert self._process.stdout is not None
            self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def errors(self) -> str:
        """What it has written to standard error."""
        return self._log.read_text(errors="replace")

    def line(self) -> str:
        """The next line of its output. Fails the test, with the end of its standard error, when none comes."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        printed = self._process.stdout.readline() if readable else b""
        assert printed, f"no line came; on standard error:\n{self.errors()[-3000:]}"
        return printed.decode().rstrip("\n")

    def rest(self) -> str:
        """What it has printed beside the lines that were taken; it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.read().decode()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal. Returns the exit code once the process and all its descendants have ended."""
        self._watch()
        self._process.send_signal(number)
        deadline = time.monotonic() + PATIENCE
        code = self._process.wait(PATIENCE)
        for pid, descriptor in self._watched.items():
            gone, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))
            assert gone, f"{_described(pid)} still runs; on standard error:\n{self.errors()[-3000:]}"
        return code

    def check_alive(self) -> None:
        """Fail the test, with the end of its standard error, when it has ended."""
        code = self._process.poll()
        assert code is None, f"it has ended with {code}; on standard error:\n{self.errors()[-3000:]}"

    def ended(self) -> int:
        """Wait until it has ended by itself. Returns its exit code."""
        return self._process.wait(PATIENCE)

    def _watch(self) -> None:
        """Open a pidfd of the process and of each descendant, which is readable once that process has ended."""
        for pid in (self.pid, *_started_by(self.pid)):
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                self._held.callback(os.close, descriptor)
                self._watched[pid] = descriptor


def _described(pid: int) -> str:
    """Its command, its parent and what it does with signals, for a test that fails."""
    process = Path("/proc") / str(pid)
    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    told = [
        line
        for line in (process / "status").read_text().splitlines()
        if line.startswith(("State", "PPid", "Sig", "Shd"))
    ]
    return f"{command!r} ({', '.join(' '.join(line.split()) for line in told)})"


def _started_by(ancestor: int) -> Iterator[int]:
    """The descendants of a process."""
    children: dict[int, list[int]] = {}
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            after_name = Path(_STAT.format(pid)).read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended by now
        children.setdefault(int(after_name[_PARENT]), []).append(pid)
    found = [ancestor]
    for pid in found:
        found += children.get(pid, [])
    yield from found[1:]
