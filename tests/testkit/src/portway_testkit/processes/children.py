"""The child processes of a process, from /proc, and when one has ended."""

import os
import signal
from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Those that it started and has not waited for."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


def has_ended(pid: int) -> bool:
    """Whether it runs no more; it may not have been waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def only_child(pid: int | None = None) -> int:
    """The one child of a process, this one by default. Raises AssertionError."""
    (child,) = children_of(os.getpid() if pid is None else pid)
    return child


def kill_only_child() -> int:
    """SIGKILL to the one child of this process, as the system does for want of memory. Returns its number."""
    child = only_child()
    os.kill(child, signal.SIGKILL)
    return child
