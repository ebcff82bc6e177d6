"""Clients of a cluster as processes, whose tunnels answer with their own names.

Here: starting one, and the facts of its tunnels. Not here: what they answer (visits.py), the program itself
(named_tunnels.py).
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portway_lab.cluster.processes import Process, Processes

# Lines of the client engine's log (client/src/portway/engine).
_PORTS = re.compile(r"could not keep its TCP port (?P<lost>\d+)|has its TCP port (?P<again>\d+) again")


@dataclass(frozen=True, slots=True)
class NamedTunnel:
    """A tunnel whose name is in every answer."""

    name: str
    url: str
    host: str
    port: int
    ready_ms: float  # how long its forward() took
    raw_port: int = 0  # at the nodes of its region; 0 if it has none

    @property
    def label(self) -> str:
        return self.host.partition(".")[0]

    @property
    def region(self) -> str:
        """The region where it was opened, which its raw port is in."""
        return self.host.split(".")[1]


def start_client(
    processes: Processes,
    name: str,
    tunnels: Sequence[str],
    exports: Mapping[str, str],
    prefix: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Process:
    """Start a client with these tunnels; it is ready when all are open. `flags` are those of named_tunnels.py."""
    command = [*prefix, sys.executable, "-m", "portway_lab.cluster.named_tunnels", *flags, *tunnels]
    return processes.start(name, command, ready_flag=True, environment=exports)


def wait_tunnels(processes: Processes, client: Process) -> dict[str, NamedTunnel]:
    """A client's tunnels by name; waits until they are open. Raises ProcessFailed."""
    return _tunnels(processes.wait_ready(client))


def open_tunnels(client: Process) -> dict[str, NamedTunnel]:
    """A client's tunnels by name if they are open now: all of them or none. Does not wait."""
    assert client.ready_file is not None
    try:
        return _tunnels(json.loads(client.ready_file.read_text()))
    except FileNotFoundError:
        return {}


def lost_ports(client: Process) -> set[int]:
    """The raw ports that a client's log names as lost and not as regained since."""
    lost: set[int] = set()
    for line in _PORTS.finditer(client.log.read_text(errors="replace")):
        if line["lost"]:
            lost.add(int(line["lost"]))
        else:
            lost.discard(int(line["again"]))
    return lost


def _tunnels(ready: Mapping[str, Any]) -> dict[str, NamedTunnel]:
    return {name: NamedTunnel(name, **facts) for name, facts in ready.items()}
