"""What a node holds for sessions and tunnels that nobody visits.

Here: memory of the node for each, and what they take of its processor. Not here: the sessions (hold_sessions.py).
"""

import json
import os
import subprocess
import time
from typing import Any, Final

from portway_lab.bench.goals import Goal
from portway_lab.bench.measures import command
from portway_lab.bench.usage import cpu_seconds, resident_kb
from portway_lab.cluster.portway import Cluster

# Lanes are dialled, news are told and freed memory is given back within it.
_SETTLE: Final = 3.0
_WATCHED: Final = 10.0  # seconds: two rounds of PINGs


def measure(cluster: Cluster, sessions: int, each: int) -> list[Goal]:
    """`sessions` of `each` tunnels. Raises RuntimeError."""
    node = [cluster.nodes[0].process.pid]
    token = cluster.ask("token", "create", "--tenant", "many", "--max-tunnels", str(sessions * each))["token"]
    environment = {**os.environ, **cluster.exports, "PORTWAY_TOKEN": token}
    with _hold(1, 1, environment) as first:  # what the first session alone costs is not the others'
        for _ in range(2):
            _told(first)
            _go_on(first)
    time.sleep(_SETTLE)
    before = resident_kb(node)
    with _hold(sessions, each, environment) as load:
        _told(load)
        time.sleep(_SETTLE)
        with_sessions = resident_kb(node)
        _go_on(load)
        held = _told(load)["held"]
        time.sleep(_SETTLE)
        with_tunnels = resident_kb(node)
        used = cpu_seconds(node)
        time.sleep(_WATCHED)
        used = cpu_seconds(node) - used
        _go_on(load)
    return [
        Goal("idle tunnels held", held, "", sessions * each, at_most=False, note=f"in {sessions} sessions"),
        Goal("a session with its lanes and a tunnel, in the node", (with_sessions - before) / sessions, "KB", 100),
        Goal("a tunnel more, in the node", (with_tunnels - with_sessions) / (sessions * (each - 1)), "KB", 10),
        Goal("all of them idle, the node's processor", used / _WATCHED * 100, "%"),
    ]


def _hold(sessions: int, each: int, environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command("clients", str(sessions), str(each)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _told(load: "subprocess.Popen[str]") -> dict[str, Any]:
    assert load.stdout is not None
    line = load.stdout.readline()
    if not line:
        raise RuntimeError("the idle tunnels could not be held; what they said is above")
    told: dict[str, Any] = json.loads(line)
    return told


def _go_on(load: "subprocess.Popen[str]") -> None:
    assert load.stdin is not None
    load.stdin.write("\n")
    load.stdin.flush()
