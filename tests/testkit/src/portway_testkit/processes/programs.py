"""Programs that no one here wrote, for tests that drive them.

Here: finding one, a port to name on its command line, waiting until it listens. Not here: starting and ending it
(cluster/processes.py of the scripts), nor what each one is told.
"""

import os
import random
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

LOOPBACK = "127.0.0.1"
# Debian keeps these out of a user's PATH.
_ELSEWHERE = ("/usr/sbin", "/sbin", *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))))
# Below what Linux gives to outgoing connections by itself (32768), and beside the raw ports of clusters (ports.py).
_PORTS = range(10_000, 20_000)
_LISTENING_WITHIN = 30.0
_POLL = 0.02


def needed(name: str) -> str:
    """The path of a program. Where it is missing the test is skipped, and fails in CI, which runs every test."""
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_ELSEWHERE)))
    if found is None:
        reason = f"{name} is not installed: ./scripts/setup --e2e, as root, installs what the tests drive"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def free_port() -> int:
    """A port that is free now and that no outgoing connection is given, for a program that does not take port 0."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def wait_listening(port: int, check_alive: Callable[[], None]) -> None:
    """Until somebody listens on the port; `check_alive` raises when nobody will."""
    deadline = time.monotonic() + _LISTENING_WITHIN
    while True:
        check_alive()
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on port {port}"
            time.sleep(_POLL)
        else:
            return
