"""Ports of loopback for programs that do not take port 0, ports that stay free for who comes back to them, and waiting
until one listens."""

import os
import random
import socket
import time
from collections.abc import Callable

LOOPBACK = "127.0.0.1"
# Both ranges are below the one that Linux gives to outgoing connections (from 32768), and above the ports of services.
_FREE_PORTS = range(10_000, 20_000)
_RAW_PORTS = range(20_000, 30_000)
_RAW_BLOCK = 50
_LISTENING_WITHIN = 90.0  # seconds: what a JupyterLab takes on a busy machine
_POLL = 0.02

_given: set[int] = set()  # by free_port, in this process


def raw_port_range(size: int = _RAW_BLOCK) -> tuple[int, int]:
    """First and last port of a random block of this worker's: a node skips ports that are taken."""
    [first] = raw_port_blocks(1, size)
    return first, first + size - 1


def raw_port_blocks(count: int, size: int) -> list[int]:
    """The first ports of so many random blocks of this worker's, each once."""
    share = _share_of(_RAW_PORTS)
    if len(share) < count * size:  # of very many workers
        share = _RAW_PORTS
    return random.sample(range(share.start, share.stop - size + 1, size), count)


def free_port() -> int:
    """A port that is free now, outside the range of outgoing connections, and given to nobody else: neither by another
    call nor by another worker of this run."""
    share = _share_of(_FREE_PORTS)
    if len(_given) > len(share) // 2:
        _given.clear()  # the first ones are of tests that have ended
    while True:
        port = random.choice(share)
        if port in _given:
            continue
        _given.add(port)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def held_port(host: str = LOOPBACK, port: int = 0) -> socket.socket:
    """A socket on a free port of a host, or on this one where nobody listens: until it is closed nobody is given the
    port, neither by port 0 nor for an outgoing connection. Who asks for it by its number, with SO_REUSEADDR as servers
    do, may listen there; while nobody does, connections are refused. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    holder = socket.socket(family)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((host, port))
    except BaseException:
        holder.close()
        raise
    return holder


def wait_listening(port: int, check_alive: Callable[[], None]) -> None:
    """Return once a program listens on the port; `check_alive` raises when it has ended."""
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


def _share_of(ports: range) -> range:
    """Those of this worker of pytest-xdist; all where there is one worker."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = len(ports) // max(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), worker + 1)
    return ports[worker * share : (worker + 1) * share]
