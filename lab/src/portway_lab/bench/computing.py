"""A tunnel beside a program that computes: the engine in the program, and in a process of its own, by turns.

At one connection, with the local server in a process of its own. Not here: the client that computes
(computing_client.py).
"""

import os
import statistics
import sys
from collections.abc import Callable
from typing import Final

from portway_lab.bench import measures
from portway_lab.bench.computing_client import Order
from portway_lab.bench.contestants import Contestant, find_program, start_origin
from portway_lab.bench.endpoint import Endpoint
from portway_lab.bench.report import Goal
from portway_lab.bench.usage import resident_kb, with_descendants
from portway_lab.cluster.portway import LOOPBACK, Cluster
from portway_lab.cluster.processes import Processes

# Beside a computing thread, of what the plain tunnel has beside a computing process.
_KEPT: Final = 0.8
_INSIDE, _APART = "forward()", "process=True"
_FIGURES: Final = (("per_s", "requests/s"), ("mb_per_s", "MB/s"))


def measure(
    cluster: Cluster,
    processes: Processes,
    seconds: float,
    bulk_bytes: int,
    rounds: int,
    progress: Callable[[str], None],
) -> list[Goal]:
    """Medians over the rounds. `seconds` of requests and one download of `bulk_bytes` at each turn."""
    nginx = find_program("nginx")
    if nginx is None:
        raise SystemExit("scripts/bench needs nginx (the Debian package of this name)")
    origin = start_origin(processes, nginx)
    clients = {_INSIDE: _start(processes, cluster, origin, ""), _APART: _start(processes, cluster, origin, "1")}
    taken: dict[tuple[str, Order], list[measures.Figures]] = {}
    for number in range(rounds):
        for engine, client in clients.items():
            (pid,) = client.parts["client"]
            for order in Order:
                progress(f"round {number + 1}/{rounds}: {engine}, {order.value}")
                os.kill(pid, order.signal)
                figures = measures.latency(client, seconds) | measures.bulk(client, bulk_bytes)
                taken.setdefault((engine, order), []).append(figures)
            os.kill(pid, Order.NOTHING.signal)
    progress("")
    goals = []
    for figure, unit in _FIGURES:
        medians = {of: statistics.median(one[figure] for one in figures) for of, figures in taken.items()}
        goals += [Goal(f"{engine}, {order.value}", value, unit) for (engine, order), value in medians.items()]
        kept = medians[_APART, Order.THREAD] / medians[_INSIDE, Order.PROCESS]
        title = f"{unit}: {_APART} beside a thread / {_INSIDE} beside a process"
        goals.append(Goal(title, kept, "x", _KEPT, at_most=False))
    (program,) = clients[_APART].parts["client"]
    resident = resident_kb(with_descendants([program]) - {program})
    return [*goals, Goal("the process of an engine, resident", resident / 1000, "MB")]


def _start(processes: Processes, cluster: Cluster, origin: int, process: str) -> Contestant:
    client = processes.start(
        f"client{process}",
        [sys.executable, "-m", "portway_lab.bench.computing_client", str(origin)],
        ready_flag=True,
        environment={**cluster.exports, "PORTWAY_PROCESS": process},
    )
    ready = processes.wait_ready(client)
    endpoint = Endpoint(LOOPBACK, ready["port"], ready["host"], str(cluster.ca))
    return Contestant("portway", endpoint, {"client": [ready["pid"]]})
