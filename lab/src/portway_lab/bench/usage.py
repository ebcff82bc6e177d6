"""What processes have used, CPU-seconds and memory, from /proc; and which cores they may use."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def with_descendants(roots: Iterable[int]) -> set[int]:
    """The processes and all they started (sshd's sessions)."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found: set[int] = set()
    left = list(roots)
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += children.get(pid, [])
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time so far, of the processes and their descendants."""
    ticks = 0
    for pid in with_descendants(roots):
        if fields := _stat(pid):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def resident_kb(roots: Iterable[int]) -> int:
    """Resident memory of the processes and their descendants; what the kernel holds for sockets is not in it."""
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
    """The processes, their descendants and all their threads run on these cores alone meanwhile."""
    before = os.sched_getaffinity(0)
    threads = [int(task.name) for pid in with_descendants(roots) for task in (_PROC / str(pid) / "task").iterdir()]
    _allow(threads, cores)
    try:
        yield
    finally:
        _allow(threads, before)


def _allow(threads: Iterable[int], cores: set[int]) -> None:
    for thread in threads:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(thread, cores)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state (index 0) on; the name before it may hold anything."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
