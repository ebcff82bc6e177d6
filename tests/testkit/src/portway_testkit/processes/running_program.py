"""A program as its user runs it: the lines it prints, a signal, its exit code, and nothing of it left.

Here: the process and all that it starts, watched until they are gone. Not here: which program it is.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

PATIENCE = 60.0  # for the slowest of them, a JupyterLab, on a machine that does other things too
_STAT = "/proc/{}/stat"
_PARENT = 1  # of what follows the program's name in it: its state, its parent


class RunningProgram:
    """`with RunningProgram(command, environment, log) as program:` runs it; leaving the block kills what is left.

    Its standard error goes to the file `log`.
    """

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._environment = environment
        self._log = log
        self._watched: list[int] = []
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                bufsize=0,  # what was read ahead would not show in select
            )
        return self

    def __exit__(self, *_: object) -> None:
        with self._held:
            if self._process.poll() is None:
                self._watch()
            for descriptor in self._watched:
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
        """The next line that it prints. Fails the test, with its last words, when none comes."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        printed = self._process.stdout.readline() if readable else b""
        assert printed, f"no line came; on standard error:\n{self.errors()[-3000:]}"
        return printed.decode().rstrip("\n")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal; its exit code, once it and all that it had started are gone."""
        self._watch()
        self._process.send_signal(number)
        deadline = time.monotonic() + PATIENCE
        code = self._process.wait(PATIENCE)
        for descriptor in self._watched:
            gone, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))
            assert gone, f"something that it started runs on; on standard error:\n{self.errors()[-3000:]}"
        return code

    def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(PATIENCE)

    def _watch(self) -> None:
        """Hold a descriptor of it and of each process that it has started: readable once that one has ended."""
        for pid in (self.pid, *_started_by(self.pid)):
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                self._held.callback(os.close, descriptor)
                self._watched.append(descriptor)


def _started_by(ancestor: int) -> Iterator[int]:
    """The processes that it started, those that they started, and so on."""
    children: dict[int, list[int]] = {}
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            after_name = Path(_STAT.format(pid)).read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        children.setdefault(int(after_name[_PARENT]), []).append(pid)
    found = [ancestor]
    for pid in found:
        found += children.get(pid, [])
    yield from found[1:]
