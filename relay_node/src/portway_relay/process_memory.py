"""The memory of this process: what it has, what it may have, and returning what was freed.

Not here: what is done when it is scarce (memory_limit.py).
"""

import ctypes
import os
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_STATM: Final = Path("/proc/self/statm")
_OWN_GROUP: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")


def resident() -> int:
    """The bytes that are resident; 0 where the system does not say."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def available(own_group: Path = _OWN_GROUP, groups: Path = _GROUPS) -> int:
    """The bytes that the machine has, or the smallest limit of the control groups (version 2) that this process is in,
    such as that of its container or of its systemd unit."""
    least = os.sysconf("SC_PHYS_PAGES") * _PAGE
    try:
        own = next(line[3:] for line in own_group.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return least
    group = groups / own.strip("/")
    for folder in (group, *group.parents):
        try:
            least = min(least, int((folder / "memory.max").read_text()))
        except (OSError, ValueError):  # not there, or "max"
            pass
        if folder == groups:
            break
    return least


def return_freed() -> None:
    """Return memory that was freed to the system. glibc keeps most of what buffers of visits had, so that the process
    would look as large as before; other libraries have no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
