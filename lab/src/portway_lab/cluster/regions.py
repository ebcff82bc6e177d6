"""Three regions of the world on one machine: a cluster whose parts are as far apart as those regions.

Here: the map and the plans made from it. Not here: the network (network.py), the processes (portway.py).
"""

from dataclasses import dataclass

from portway_lab.cluster.network import Network, Place, round_trip, start_network
from portway_lab.cluster.portway import Cluster, NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes

# Milliseconds of a ping between data centres of these cities.
DISTANCES = {("fra", "iad"): 90.0, ("fra", "nrt"): 230.0, ("iad", "nrt"): 150.0}
_POSITIONS = {"fra": (50.1, 8.7), "iad": (38.9, -77.4), "nrt": (35.8, 140.4)}
REGISTRY = Place("registry", "fra")
CLIENT = Place("client", "iad", access=4.0)
VISITOR = Place("visitor", "nrt", access=6.0)
_NODES = tuple(Place(region, region) for region in _POSITIONS)
PLACES = (*_NODES, REGISTRY, CLIENT, VISITOR)
# Each namespace has its own ports.
_PUBLIC_PORT = 443


@dataclass(frozen=True, slots=True)
class Regions:
    """A running cluster: a node in each region, a registry, and places for a client and a visitor."""

    network: Network
    cluster: Cluster


def node_plan(network: Network, place: str, region: str, *flags: str) -> NodePlan:
    """The plan of the node in a place."""
    latitude, longitude = _POSITIONS[region]
    return NodePlan(
        f"{place}-1" if place == region else place,
        region,
        latitude,
        longitude,
        host=network.address(place),
        port=_PUBLIC_PORT,
        prefix=network.prefix(place),
        flags=flags,
    )


def start_regions(processes: Processes) -> Regions:
    """Return when every node is ready. Raises ProcessFailed; check delay_network.why_not() first."""
    network = start_network(processes, PLACES, DISTANCES)
    registry = RegistryPlan(host=network.address(REGISTRY.name), prefix=network.prefix(REGISTRY.name))
    nodes = tuple(node_plan(network, place.name, place.region) for place in _NODES)
    return Regions(network, start_cluster(processes, nodes, registry))


def distance(one: str, other: str) -> float:
    """The round trip between two places of the map, in milliseconds."""
    by_name = {place.name: place for place in PLACES}
    return round_trip(by_name[one], by_name[other], DISTANCES)
