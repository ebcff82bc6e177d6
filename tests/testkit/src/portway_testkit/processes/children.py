"""The child processes of a process, from /proc, and when one has ended."""

import os
import signal
from pathlib import Path
from typing import Final

_ENGINE: Final = b"portway.engine_process.child"


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


def engines_of(pid: int) -> list[int]:
    """Of its children those that are processes of an engine: this process may have others, such as an etcd that many
    tests use."""
    return [child for child in children_of(pid) if _ENGINE in _command_of(child)]


def only_child(pid: int | None = None) -> int:
    """The one process of an engine that is a child of a process, this one by default. Raises AssertionError."""
    found = engines_of(os.getpid() if pid is None else pid)
    assert len(found) == 1, found
    return found[0]


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill_only_child() -> int:
    """SIGKILL to the one process of an engine of this process, as the system does for want of memory. Returns its
    number."""
    child = only_child()
    os.kill(child, signal.SIGKILL)
    return child
