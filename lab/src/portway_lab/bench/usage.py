"""CPU time and memory of processes, from /proc; and which cores they may run on."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def with_descendants(roots: Iterable[int]) -> set[int]:
    """The processes and everything that they started, such as the sessions of sshd."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found: set[int] = set()
    pending = list(roots)
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending += children.get(pid, [])
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time of the processes and their descendants since they started."""
    ticks = 0
    for pid in with_descendants(roots):
        if fields := _stat(pid):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def resident_kb(roots: Iterable[int]) -> int:
    """Resident memory of the processes and their descendants, without the kernel's socket buffers."""
    total = 0
    for pid in with_descendants(roots):
        try:
            status = (_PROC / str(pid) / "status").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
    return total


@contextmanager
def on_cores(roots: Iterable[int], cores: set[int]) -> Iterator[None]:
    """Inside the block, the processes, their descendants and all threads of these run on these cores only."""
    before = os.sched_getaffinity(0)
    threads = [int(task.name) for pid in with_descendants(roots) for task in (_PROC / str(pid) / "task").iterdir()]
    _allow(threads, cores)
    try:
        yield
    finally:
        _allow(threads, before)


def _allow(threads: Iterable[int], cores: set[int]) -> None:
    for thread in threads:
        with suppress(ProcessLookupError):  # it has ended by now
            os.sched_setaffinity(thread, cores)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state (index 0) on; None if the process is gone. The name before may hold any
    text."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
