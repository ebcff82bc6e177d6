"""scripts/bench: measure Portway beside its opponents.

All contestants run at the same time and take turns, round by round, so that a machine that becomes slower does so for
all of them. Here: which measures run, in which order, how often. Not here: what each measures (measures.py,
idle_tunnels.py, rehomed.py, computing.py, mesh.py, outage.py,
region_lost.py), the opponents (contestants.py).
"""

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portway_runtime.descriptors import raise_limit

from portway_lab.bench import (
    computing,
    contestants,
    idle_tunnels,
    measures,
    mesh,
    mesh_far,
    outage,
    region_lost,
    rehomed,
    report,
)
from portway_lab.bench.contestants import Contestant, find_program
from portway_lab.bench.endpoint import Endpoint
from portway_lab.checkout import ROOT
from portway_lab.cluster import delay_network
from portway_lab.cluster.portway import LOOPBACK, Cluster, NodePlan, start_cluster
from portway_lab.cluster.processes import Processes

MEASURES = ("idle", "tunnels", "rehomed", "bulk", "requests", "latency", "connections", "forward", "computing", "mesh")
# Measures that run only when they are named: their time is what they measure.
_ON_REQUEST = ("outage", "region")
# Measures that start clusters of their own.
_APART = {"idle", "tunnels", "rehomed", "computing", "mesh", "outage", "region"}
# The whole load comes from one address, and one session opens tunnels without pause.
_NO_LIMITS = (
    *("--connections-per-second", "1000000", "--connection-burst", "1000000"),
    *("--binds-per-second", "100000", "--bind-burst", "100000"),
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: a longer run gives more certain figures."""

    rounds: int
    seconds: float  # of each load in each round
    bulk_bytes: int
    warm: int  # forward() calls
    fresh: int  # interpreters
    sessions: int  # of idle tunnels
    outage: float  # seconds
    region: float  # seconds of visits before a region is lost; three times as many after it


FULL = Effort(rounds=5, seconds=5.0, bulk_bytes=1 << 30, warm=200, fresh=20, sessions=200, outage=600.0, region=30.0)
QUICK = Effort(rounds=2, seconds=1.0, bulk_bytes=256 << 20, warm=50, fresh=5, sessions=40, outage=30.0, region=12.0)
IDLE_VISITORS = 2_000
TUNNELS_OF_A_SESSION = 50
# Descriptors of a relay node or HAProxy: two for each visitor, and those that the process has otherwise.
_DESCRIPTORS_PER_VISITOR = 2
_OTHER_DESCRIPTORS = 200


def main() -> int:
    arguments = _parse()
    effort = QUICK if arguments.quick else FULL
    descriptors = _raise_descriptors()
    chosen = arguments.only or list(MEASURES)
    began, load_before = time.strftime("%Y-%m-%dT%H:%M:%S%z"), os.getloadavg()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="portway-bench-") as name, Processes(Path(name)) as processes:
        skipped: dict[str, str] = {}
        rounds: dict[str, dict[str, list[measures.Figures]]] = {}
        forward: dict[str, measures.Figures] = {}
        if "idle" in chosen:
            rounds["idle"] = _run_idle(Path(name), descriptors, skipped)
        of_tunnels: list[report.Goal] = []
        if "tunnels" in chosen:
            of_tunnels += _run_tunnels(Path(name), effort)
        if "rehomed" in chosen:
            of_tunnels += _run_rehomed(Path(name), effort)
        if set(chosen) - _APART:
            cluster = _start_cluster(processes)
            if set(chosen) - _APART - {"forward"}:
                field = _start(processes, cluster, skipped)
                rounds |= _run_rounds(field, chosen, effort, Path(name))
            if "forward" in chosen:
                forward = _run_forward(cluster, effort, Path(name), skipped)
            processes.end()  # the mesh has clusters of its own, and needs the machine alone
        of_computing: list[report.Goal] = []
        if "computing" in chosen:
            of_computing = _run_computing(Path(name), effort)
        of_mesh: list[report.Goal] = []
        if "mesh" in chosen:
            of_mesh = mesh.measure(Path(name), mesh.QUICK if arguments.quick else mesh.FULL, skipped, _progress)
        of_outage = _run_outage(Path(name), effort) if "outage" in chosen else []
        of_region = _run_region(Path(name), effort, skipped) if "region" in chosen else []
    result = {
        measure: {contestant: report.medians(figures) for contestant, figures in by_contestant.items()}
        for measure, by_contestant in rounds.items()
    }
    written: dict[str, Any] = {
        "began": began,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "machine": report.machine(),
        "effort": {name: getattr(effort, name) for name in Effort.__slots__},
        "medians": result,
        "forward": forward,
        "tunnels": [goal.to_json() for goal in of_tunnels],
        "computing": [goal.to_json() for goal in of_computing],
        "mesh": [goal.to_json() for goal in of_mesh],
        "outage": [goal.to_json() for goal in of_outage],
        "region": [goal.to_json() for goal in of_region],
        "rounds": rounds,
        "skipped": skipped,
    }
    target = arguments.json or ROOT / f"bench-results-{time.strftime('%Y%m%d-%H%M%S')}.json"
    target.write_text(json.dumps(written, indent=2) + "\n")
    print(report.table(result, forward))
    for title, measured in (
        ("many tunnels", of_tunnels),
        ("a program that computes, one connection", of_computing),
        ("the mesh", of_mesh),
        ("an outage of registry and etcd", of_outage),
        ("a region is lost", of_region),
    ):
        if measured:
            print(report.goal_table(title, measured))
    facts = written["machine"]
    print(
        f"\n{facts['cores']} cores ({facts['cpu']}); load average {load_before[0]:.2f} before, "
        f"{os.getloadavg()[0]:.2f} after; medians of {effort.rounds} rounds; Python {facts['python']}"
    )
    for what, why in skipped.items():
        print(f"not measured: {what}: {why}")
    print(f"all rounds: {target}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure Portway beside a direct connection, HAProxy and ssh -R. Needs nginx and wrk.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter rounds: less certain figures in a few minutes"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=MEASURES + _ON_REQUEST,
        metavar="NAME",
        help=f"run this measure only; may be repeated; one of {', '.join(MEASURES)}, and, only when they are named, "
        "outage, which takes ten minutes, and region, which takes three",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="where all rounds are written; default: bench-results-TIME.json in the root of the checkout",
    )
    return parser.parse_args()


def _raise_descriptors() -> int:
    """Raise the limit of descriptors as far as this user may; returns it. Children inherit it."""
    raise_limit()
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _start_cluster(processes: Processes, limits: tuple[str, ...] = _NO_LIMITS) -> Cluster:
    plan = NodePlan(contestants.NODE, contestants.REGION, 50.1, 8.7, flags=limits)
    return start_cluster(processes, (plan,))


def _start(processes: Processes, cluster: Cluster, skipped: dict[str, str]) -> list[Contestant]:
    """Start every contestant that is installed; `skipped` gets the reason for each other."""
    nginx = find_program("nginx")
    if nginx is None or find_program("wrk") is None:
        raise SystemExit("scripts/bench needs nginx and wrk (Debian packages of these names)")
    origin = contestants.start_origin(processes, nginx)
    field = [
        Contestant("direct", Endpoint(LOOPBACK, origin)),
        contestants.start_portway(processes, cluster, origin),
    ]
    if haproxy := find_program("haproxy"):
        field.append(contestants.start_haproxy(processes, cluster, origin, haproxy))
    else:
        skipped["haproxy"] = "not installed"
    if (sshd := find_program("sshd")) and (ssh := find_program("ssh")):
        field.append(contestants.start_ssh(processes, origin, sshd, ssh))
    else:
        skipped["ssh -R"] = "sshd or ssh is not installed"
    return field


def _run_idle(folder: Path, descriptors: int, skipped: dict[str, str]) -> dict[str, list[measures.Figures]]:
    """In a cluster of its own: no process has freed memory before, and the thousands of lanes that are closed over the
    next minute disturb no other measure."""
    visitors = min(IDLE_VISITORS, (descriptors - _OTHER_DESCRIPTORS) // _DESCRIPTORS_PER_VISITOR)
    own = folder / "idle"
    own.mkdir()
    taken = {}
    with Processes(own) as processes:
        for one in _start(processes, _start_cluster(processes), skipped):
            if one.parts:
                _progress(f"idle, {one.name}")
                taken[one.name] = [measures.idle(one, visitors)]
    _progress("")
    return taken


def _run_tunnels(folder: Path, effort: Effort) -> list[report.Goal]:
    """With the default limits: a node must hold this many without being configured for it."""
    _progress(f"{effort.sessions * TUNNELS_OF_A_SESSION} idle tunnels")
    own = folder / "tunnels"
    own.mkdir()
    with Processes(own) as processes:
        return idle_tunnels.measure(_start_cluster(processes, limits=()), effort.sessions, TUNNELS_OF_A_SESSION)


def _run_rehomed(folder: Path, effort: Effort) -> list[report.Goal]:
    """With the default limits, too."""
    _progress(f"{effort.sessions * TUNNELS_OF_A_SESSION} tunnels come to a node")
    own = folder / "rehomed"
    own.mkdir()
    with Processes(own) as processes:
        cluster = _start_cluster(processes, limits=())
        return rehomed.measure(cluster, effort.sessions, TUNNELS_OF_A_SESSION, effort.rounds)


def _run_computing(folder: Path, effort: Effort) -> list[report.Goal]:
    """Without the other contestants: what computes needs a core."""
    own = folder / "computing"
    own.mkdir()
    with Processes(own) as processes:
        cluster = _start_cluster(processes)
        size = min(effort.bulk_bytes, contestants.BIG_FILE)  # beside a thread it takes long
        return computing.measure(cluster, processes, effort.seconds, size, effort.rounds, _progress)


def _run_outage(folder: Path, effort: Effort) -> list[report.Goal]:
    """In a cluster of its own, which loses its registry and its store for good."""
    _progress(f"an outage of {effort.outage:.0f} s")
    own = folder / "outage"
    own.mkdir()
    goals = outage.measure(own, effort.outage)
    _progress("")
    return goals


def _run_region(folder: Path, effort: Effort, skipped: dict[str, str]) -> list[report.Goal]:
    if why := delay_network.why_not():
        skipped["region"] = why
        return []
    _progress("a region is lost")
    own = folder / "region"
    own.mkdir()
    goals = region_lost.measure(own, effort.region)
    _progress("")
    return goals


def _run_rounds(
    field: list[Contestant], chosen: list[str], effort: Effort, folder: Path
) -> dict[str, dict[str, list[measures.Figures]]]:
    loads: dict[str, Callable[[Contestant], measures.Figures]] = {
        "bulk": lambda one: measures.bulk(one, effort.bulk_bytes),
        "requests": lambda one: measures.requests(one, effort.seconds, folder),
        "latency": lambda one: measures.latency(one, effort.seconds),
        "connections": lambda one: measures.connections(one, effort.seconds),
    }
    taken: dict[str, dict[str, list[measures.Figures]]] = {}
    for number in range(effort.rounds):
        for measure in MEASURES:
            if measure not in chosen or measure not in loads:
                continue
            for one in field:
                _progress(f"round {number + 1}/{effort.rounds}: {measure}, {one.name}")
                taken.setdefault(measure, {}).setdefault(one.name, []).append(loads[measure](one))
    _progress("")
    return taken


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<60}\r", end="", file=sys.stderr, flush=True)


def _run_forward(
    cluster: Cluster, effort: Effort, folder: Path, skipped: dict[str, str]
) -> dict[str, measures.Figures]:
    found = {
        "warm process": measures.forward_ready("warm", effort.warm, cluster.exports),
        "second tunnel of a process": measures.forward_ready("second", effort.warm, cluster.exports),
        "fresh interpreter": measures.forward_fresh(effort.fresh, cluster.exports),
    }
    in_process = cluster.exports | {"PORTWAY_PROCESS": "1"}
    found |= {
        "second tunnel, process=True": measures.forward_ready("second", effort.warm, in_process),
        "fresh interpreter, process=True": measures.forward_fresh(effort.fresh, in_process),
    }
    title = f"second, {mesh_far.REGISTRY_ROUND_TRIP:.0f} ms to registry, {mesh_far.NODE_ROUND_TRIP:.0f} to node"
    if why := delay_network.why_not():
        skipped[title] = why
    else:
        far = folder / "far"
        far.mkdir()
        found[title] = mesh_far.second_tunnel(far, effort.warm // 4)
    return found


if __name__ == "__main__":
    sys.exit(main())
