"""forward() with emulated round trips: a cluster of its own in network namespaces."""

from pathlib import Path

from portway_lab.bench import measures
from portway_lab.cluster.network import Place, start_network
from portway_lab.cluster.portway import NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes

REGISTRY_ROUND_TRIP = 150.0  # ms
NODE_ROUND_TRIP = 10.0
_PLACES = (
    Place("registry", "there", access=0.0),
    Place("node", "here", access=NODE_ROUND_TRIP / 2),
    Place("client", "here", access=NODE_ROUND_TRIP / 2),
)
_DISTANCES = {("here", "there"): REGISTRY_ROUND_TRIP - NODE_ROUND_TRIP / 2}


def second_tunnel(folder: Path, count: int) -> measures.Figures:
    """A process's second tunnel, with 150 ms to the registry and 10 ms to the node."""
    with Processes(folder) as processes:
        network = start_network(processes, _PLACES, _DISTANCES)
        node = NodePlan("far-1", "far", 0.0, 0.0, host=network.address("node"), prefix=network.prefix("node"))
        registry = RegistryPlan(host=network.address("registry"), prefix=network.prefix("registry"))
        cluster = start_cluster(processes, (node,), registry)
        return measures.forward_ready("second", count, cluster.exports, network.prefix("client"))
