"""What a server tells the service manager that started it: ready, reloading, stopping. That is systemd, for a unit of
`Type=notify`.

The protocol is that of sd_notify(3): lines of text, in one datagram to the socket that the variable NOTIFY_SOCKET
names. Not here: when a server is ready (run.py).
"""

import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_VARIABLE: Final = "NOTIFY_SOCKET"
# Seconds for a service manager that does not take its datagrams; one that works takes them at once.
_PATIENCE: Final = 1.0
# A system's unit as the kernel names the group of its processes, perhaps below that of a container with systemd inside.
_UNIT: Final = re.compile(r"/system\.slice/(?:[^/]+\.slice/)*([^/]+\.service)(?:/|$)")
_GROUPS: Final = Path("/proc/self/cgroup")


def own_unit(groups: Path = _GROUPS) -> str:
    """The unit of the system's service manager that this process is of, such as "portway-server.service"; "" for
    none."""
    try:
        lines = groups.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    # Of the kernel's hierarchies that which systemd keeps: the second version's, or that by its name of the first.
    found = [_UNIT.findall(line) for line in lines if line.partition(":")[2].startswith((":", "name=systemd:"))]
    return next((units[-1] for units in found if units), "")


class ServiceManager:
    """The service manager that the environment names; without one nothing is told. A failure is logged, and affects
    nothing else."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: the process's, if None."""
        self._address = (os.environ if environment is None else environment).get(_VARIABLE, "")
        self._ready = False

    def ready(self) -> None:
        """The server serves."""
        self._ready = True
        self._tell("READY=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """The server reads its files again inside the block. Before it was ready nothing is told."""
        told = self._ready
        if told:
            self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        yield
        if told:
            self._tell("READY=1")

    def stopping(self) -> None:
        """The server has begun to stop."""
        self._ready = False
        self._tell("STOPPING=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        address = os.fsencode(self._address)
        if address.startswith(b"@"):  # an abstract one, in no file system
            address = b"\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.connect(address)
                sock.sendall("\n".join(lines).encode())
        except OSError as error:
            logger.warning(
                "the service manager is not told",
                extra={"socket": self._address, "reason": error.strerror or str(error)},
            )
