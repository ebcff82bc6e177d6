"""All figures of the mesh, in sequence.

Here: which are measured, how often, and which are skipped on a machine that cannot measure them. Not here: the
measuring (mesh_near.py, mesh_far.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from portway_testkit.clusters.etcd import EtcdMissing, find_etcd

from portway_lab.bench import mesh_far, mesh_near
from portway_lab.bench.contestants import find_program
from portway_lab.bench.report import Goal
from portway_lab.cluster.delay_network import why_not


@dataclass(frozen=True, slots=True)
class MeshEffort:
    rounds: int
    seconds: float
    bulk_bytes: int
    kills: int
    cold: int  # tunnels
    clients: int
    black_holes: int  # each takes some 30 s
    forwards: int


FULL = MeshEffort(5, 3.0, 512 << 20, kills=12, cold=20, clients=10, black_holes=3, forwards=100)
QUICK = MeshEffort(2, 1.0, 128 << 20, kills=4, cold=5, clients=3, black_holes=1, forwards=30)


def measure(folder: Path, effort: MeshEffort, skipped: dict[str, str], progress: Callable[[str], None]) -> list[Goal]:
    """Runs what this machine can run; `skipped` gets the reason for each measure that it cannot."""
    parts: dict[str, Callable[[Path], list[Goal]]] = {}
    if nginx := find_program("nginx"):
        parts["second-node"] = lambda at: mesh_near.second_node(
            at, nginx, effort.rounds, effort.seconds, effort.bulk_bytes
        )
    else:
        skipped["the second node"] = "nginx is not installed"
    parts["home-killed"] = lambda at: mesh_near.home_killed(at, effort.kills)
    if reason := why_not():
        skipped["the mesh over distance"] = reason
    else:
        parts["cold-visits"] = lambda at: mesh_far.cold_visits(at, effort.cold)
        parts["nearest"] = lambda at: mesh_far.nearest(at, effort.clients)
        parts["black-hole"] = lambda at: mesh_far.black_hole(at, effort.black_holes)
        try:
            etcd = find_etcd()
        except EtcdMissing as missing:
            skipped["an etcd far away"] = str(missing)
        else:
            parts["etcd-far-away"] = lambda at: mesh_far.etcd_far_away(at, etcd, effort.forwards)
    goals: list[Goal] = []
    for name, part in parts.items():
        progress(f"mesh: {name}")
        place = folder / name
        place.mkdir()
        goals += part(place)
    progress("")
    return goals
