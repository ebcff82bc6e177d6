"""What idle sessions and tunnels cost a node: memory for each, and CPU time for all of them.

Not here: the processes that hold the sessions (clients.py).
"""

import json
import os
import subprocess
import time
from typing import Any, Final

from portway_lab.bench.measures import command
from portway_lab.bench.report import Goal
from portway_lab.bench.usage import cpu_seconds, resident_kb
from portway_lab.cluster.portway import Cluster

# Seconds in which lanes are dialled, announcements sent and freed memory returned to the system.
_SETTLE: Final = 3.0
_WATCHED: Final = 10.0  # seconds: two rounds of PINGs


def measure(cluster: Cluster, sessions: int, each: int) -> list[Goal]:
    """`sessions` sessions with `each` tunnels each. Raises RuntimeError when they cannot be held."""
    node = [cluster.nodes[0].process.pid]
    cluster.ask("tenant", "set-quota", "many", str(sessions * each))
    token = cluster.ask("token", "create", "--tenant", "many")["token"]
    environment = {**os.environ, **cluster.exports, "PORTWAY_TOKEN": token}
    with _hold(1, 1, environment) as first:  # costs of the very first session are not counted
        for _ in range(2):
            _read_line(first)
            _next_step(first)
    time.sleep(_SETTLE)
    before = resident_kb(node)
    with _hold(sessions, each, environment) as load:
        _read_line(load)
        time.sleep(_SETTLE)
        with_sessions = resident_kb(node)
        _next_step(load)
        held = _read_line(load)["held"]
        time.sleep(_SETTLE)
        with_tunnels = resident_kb(node)
        used = cpu_seconds(node)
        time.sleep(_WATCHED)
        used = cpu_seconds(node) - used
        _next_step(load)
    return [
        Goal("idle tunnels held", held, "", sessions * each, at_most=False, note=f"in {sessions} sessions"),
        Goal("a session with its lanes and a tunnel, in the node", (with_sessions - before) / sessions, "KB", 100),
        Goal("a tunnel more, in the node", (with_tunnels - with_sessions) / (sessions * (each - 1)), "KB", 10),
        Goal("all of them idle, the node's processor", used / _WATCHED * 100, "%"),
    ]


def _hold(sessions: int, each: int, environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command("clients", "sessions", str(sessions), str(each)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _read_line(load: "subprocess.Popen[str]") -> dict[str, Any]:
    assert load.stdout is not None
    line = load.stdout.readline()
    if not line:
        raise RuntimeError("the idle tunnels could not be held; their message is above")
    result: dict[str, Any] = json.loads(line)
    return result


def _next_step(load: "subprocess.Popen[str]") -> None:
    assert load.stdin is not None
    load.stdin.write("\n")
    load.stdin.flush()
