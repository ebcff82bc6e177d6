"""Clients of a cluster as processes: tunnels that answer with their own names.

Here: starting one and what its tunnels are. Not here: what they answer (own_answers.py), the program itself
(named_tunnels.py).
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.processes import Process, Processes

_SCRIPTS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class NamedTunnel:
    """A tunnel whose every answer says that it is this one's."""

    name: str
    url: str
    host: str
    port: int
    ready_ms: float  # how long its forward() took

    @property
    def label(self) -> str:
        return self.host.partition(".")[0]


def start_client(
    processes: Processes,
    name: str,
    tunnels: Sequence[str],
    exports: Mapping[str, str],
    prefix: Sequence[str] = (),
) -> Process:
    """A client with these tunnels; it is ready when all of them are open."""
    # -P: its own folder is not searched, where a portway.py is.
    command = [*prefix, sys.executable, "-P", "-m", "cluster.named_tunnels", *tunnels]
    path = os.pathsep.join(filter(None, (str(_SCRIPTS), os.environ.get("PYTHONPATH"))))
    return processes.start(name, command, ready_flag=True, environment={**exports, "PYTHONPATH": path})


def wait_tunnels(processes: Processes, client: Process) -> dict[str, NamedTunnel]:
    """A client's tunnels by name, once they are open. Raises ProcessFailed."""
    told = processes.wait_ready(client)
    return {name: NamedTunnel(name, **facts) for name, facts in told.items()}
