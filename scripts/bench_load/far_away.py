"""forward() with emulated round trips: a cluster of its own in network namespaces."""

import os
import sys
from pathlib import Path

from cluster.portway import NodePlan, RegistryPlan, start_cluster
from cluster.processes import Processes

from bench_load import measures
from bench_load.contestants import HERE
from bench_load.delay_network import namespace

REGISTRY_ROUND_TRIP = 150.0  # ms
NODE_ROUND_TRIP = 10.0
# Private, and unlikely to be anybody's: only the namespaces see it.
_ADDRESSES = {"registry": "10.231.77.1", "node": "10.231.77.2", "client": "10.231.77.3"}


def second_tunnel(folder: Path, count: int) -> measures.Figures:
    """A process's second tunnel, with 150 ms to the registry and 10 ms to the node."""
    prefixes = {place: ("ip", "netns", "exec", namespace(place, os.getpid())) for place in _ADDRESSES}
    delays = {
        "client-registry": REGISTRY_ROUND_TRIP / 2,
        "node-registry": REGISTRY_ROUND_TRIP / 2,
        "client-node": NODE_ROUND_TRIP / 2,
    }
    with Processes(folder) as processes:
        network = processes.start(
            "delay-network",
            [
                sys.executable,
                HERE / "delay_network.py",
                *(part for name, address in _ADDRESSES.items() for part in ("--place", f"{name}={address}")),
                *(part for pair, delay in delays.items() for part in ("--delay", f"{pair}={delay}")),
            ],
            ready_flag=True,
        )
        processes.wait_ready(network)
        cluster = start_cluster(
            processes,
            (NodePlan("far-1", "far", 0.0, 0.0, host=_ADDRESSES["node"], prefix=prefixes["node"]),),
            RegistryPlan(host=_ADDRESSES["registry"], prefix=prefixes["registry"]),
        )
        return measures.forward_ready("second", count, cluster.exports, prefixes["client"])
