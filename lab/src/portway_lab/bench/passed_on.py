"""Program: the registry through a node beside a direct connection, on this machine.

usage: python -m portway_lab.bench.passed_on [--rounds N] [--seconds N]

A registry and one node are processes of their own. In turns, directly and through the node's public port: forward() in
a process that had a tunnel before, a process's second tunnel, forward() in a fresh interpreter; Locate on connections
that are kept, and on a new connection each. Prints a line for each, with the processor time of the registry and of the
node for each Locate: of all rounds the best, since what else runs on the machine only adds to them.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_testkit.clusters.registry import bearer, channel

from portway_lab.bench import measures
from portway_lab.bench.usage import cpu_seconds
from portway_lab.cluster.portway import DOMAIN, Cluster, NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes

_IN_FLIGHT: Final = 8
_KEPT: Final = 4  # connections
_WARM: Final = 100  # forward() calls
_FRESH: Final = 5


@dataclass(frozen=True, slots=True)
class Way:
    """How the registry is reached."""

    name: str
    address: str


async def _locates(cluster: Cluster, way: Way, seconds: float, *, kept: bool) -> tuple[float, float, float]:
    """Locate calls a second, and the milliseconds of processor time that each took at the registry and at the node."""
    request, shown = LocateRequest(session_key=os.urandom(32)), bearer(cluster.token)
    channels = [channel(way.address, cluster.ca) for _ in range(_KEPT)]

    async def on_a_kept_one(number: int) -> None:
        await DiscoveryStub(channels[number % _KEPT]).Locate(request, metadata=shown)

    async def on_a_new_one(number: int) -> None:
        async with channel(way.address, cluster.ca) as opened:
            await DiscoveryStub(opened).Locate(request, metadata=shown)

    ask: Callable[[int], Awaitable[None]] = on_a_kept_one if kept else on_a_new_one
    await asyncio.gather(*map(ask, range(_IN_FLIGHT)))
    registry, node = [cluster.registry_process.pid], [cluster.nodes[0].process.pid]
    before, began, count = (cpu_seconds(registry), cpu_seconds(node)), time.perf_counter(), 0

    async def asking(number: int) -> None:
        nonlocal count
        while time.perf_counter() - began < seconds:
            await ask(number)
            count += 1

    await asyncio.gather(*map(asking, range(_IN_FLIGHT)))
    took = time.perf_counter() - began
    used = (cpu_seconds(registry) - before[0], cpu_seconds(node) - before[1])
    for one in channels:
        await one.close()
    return count / took, used[0] / count * 1000, used[1] / count * 1000


def _measure(cluster: Cluster, way: Way, seconds: float) -> dict[str, float]:
    exports = cluster.exports | {"PORTWAY_REGISTRY": way.address}
    kept = asyncio.run(_locates(cluster, way, seconds, kept=True))
    new = asyncio.run(_locates(cluster, way, seconds, kept=False))
    return {
        "forward(), warm process, ms": measures.forward_ready("warm", _WARM, exports)["median_ms"],
        "forward(), second tunnel, ms": measures.forward_ready("second", _WARM, exports)["median_ms"],
        "forward(), fresh interpreter, ms": measures.forward_fresh(_FRESH, exports)["median_ms"],
        "Locate, kept connections, a second": kept[0],
        "  registry, ms of processor time": kept[1],
        "  node, ms of processor time": kept[2],
        "Locate, a new connection each, a second": new[0],
        "  registry, ms of processor time ": new[1],
        "  node, ms of processor time ": new[2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each way, in turns (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measure of Locate (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        nodes = (NodePlan("fra-1", "fra", 50.1, 8.7),)
        cluster = start_cluster(processes, nodes, RegistryPlan(flags=("--registry-name", DOMAIN)))
        # By name both: looking one up takes as long as much of what is measured.
        direct, node = (f"{DOMAIN}:{one.rpartition(':')[2]}" for one in (cluster.registry, cluster.nodes[0].listen))
        ways = (Way("direct", direct), Way("through a node", node))
        found: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
        for _ in range(arguments.rounds):
            for way in ways:
                found[way.name].append(_measure(cluster, way, arguments.seconds))
        print(f"{'':42}", *(f"{way.name:>15}" for way in ways))
        for what in found["direct"][0]:
            best = max if what.endswith("a second") else min
            figures = [best(one[what] for one in found[way.name]) for way in ways]
            print(f"{what:42}", *(f"{figure:15.2f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
