"""Clients of a cluster as processes: tunnels that answer with their own names.

Here: starting one and what its tunnels are. Not here: what they answer (own_answers.py), the program itself
(named_tunnels.py).
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portway_lab.cluster.processes import Process, Processes

# What the engine's log says (client/src/portway/engine/held_tunnel.py).
_PORTS = re.compile(r"could not keep its TCP port (?P<lost>\d+)|has its TCP port (?P<again>\d+) again")


@dataclass(frozen=True, slots=True)
class NamedTunnel:
    """A tunnel whose every answer says that it is this one's."""

    name: str
    url: str
    host: str
    port: int
    ready_ms: float  # how long its forward() took
    raw_port: int = 0  # of its region's nodes; 0 when it has none

    @property
    def label(self) -> str:
        return self.host.partition(".")[0]

    @property
    def region(self) -> str:
        """Where it was opened, and its raw port is."""
        return self.host.split(".")[1]


def start_client(
    processes: Processes,
    name: str,
    tunnels: Sequence[str],
    exports: Mapping[str, str],
    prefix: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Process:
    """A client with these tunnels; it is ready when all of them are open. `flags` are those of named_tunnels.py."""
    command = [*prefix, sys.executable, "-m", "portway_lab.cluster.named_tunnels", *flags, *tunnels]
    return processes.start(name, command, ready_flag=True, environment=exports)


def wait_tunnels(processes: Processes, client: Process) -> dict[str, NamedTunnel]:
    """A client's tunnels by name, once they are open. Raises ProcessFailed."""
    return _tunnels(processes.wait_ready(client))


def told_tunnels(client: Process) -> dict[str, NamedTunnel]:
    """A client's tunnels by name as far as they are open by now: all of them, or none."""
    assert client.ready_file is not None
    try:
        return _tunnels(json.loads(client.ready_file.read_text()))
    except FileNotFoundError:
        return {}


def lost_ports(client: Process) -> set[int]:
    """The raw ports that a client has said it could not keep, and has not said it has again."""
    lost: set[int] = set()
    for said in _PORTS.finditer(client.log.read_text(errors="replace")):
        if said["lost"]:
            lost.add(int(said["lost"]))
        else:
            lost.discard(int(said["again"]))
    return lost


def _tunnels(told: Mapping[str, Any]) -> dict[str, NamedTunnel]:
    return {name: NamedTunnel(name, **facts) for name, facts in told.items()}
