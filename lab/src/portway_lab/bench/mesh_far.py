"""Clusters whose parts are far apart: a second tunnel, cold visits, the nearest node, a distant etcd, a black hole.

Here: clusters in network namespaces with emulated round trips. Not here: the mesh on one machine (mesh_near.py).
"""

import statistics
import time
from collections import Counter
from functools import partial
from pathlib import Path

from portway_lab.bench import measures
from portway_lab.bench.mesh_near import home_of, serves_after
from portway_lab.bench.report import Goal
from portway_lab.cluster.clients import NamedTunnel, start_client, wait_tunnels
from portway_lab.cluster.network import Network, Place, round_trip, start_network
from portway_lab.cluster.portway import ETCD_PORT, Cluster, NodePlan, RegistryPlan, start_cluster, start_etcd
from portway_lab.cluster.processes import Processes
from portway_lab.cluster.regions import CLIENT, REGISTRY, VISITOR, node_plan, start_regions
from portway_lab.cluster.visits import Ask, ask, connect, visitor_context

LONG = 100.0  # ms between the regions of a cold visit
ETCD_ROUND_TRIP = 150.0
# Of a process's second tunnel, in ms.
REGISTRY_ROUND_TRIP = 150.0
NODE_ROUND_TRIP = 10.0
_TIMEOUT = 30.0
# A visitor who reloads: long enough for a visit over the longest path, and the error of the time until a URL works.
_RELOAD_TIMEOUT = 1.0
# One TCP segment. Kernels with BBR pace a longer answer by the rate that the idle connection had before: 10 kB take
# 20 ms more at this distance, which would be counted as the mesh's.
_PAGE = Ask(1_000)
# CPU time of asking a registry is some milliseconds; one round trip too many would be five times this.
_SLACK = LONG / 5


def second_tunnel(folder: Path, count: int) -> measures.Figures:
    """forward() for a process's second tunnel, with 150 ms to the registry and 10 ms to the node."""
    places = (
        Place("registry", "there", access=0.0),
        Place("node", "here", access=NODE_ROUND_TRIP / 2),
        Place("client", "here", access=NODE_ROUND_TRIP / 2),
    )
    distances = {("here", "there"): REGISTRY_ROUND_TRIP - NODE_ROUND_TRIP / 2}
    with Processes(folder) as processes:
        network = start_network(processes, places, distances)
        node = NodePlan("far-1", "far", 0.0, 0.0, host=network.address("node"), prefix=network.prefix("node"))
        registry = RegistryPlan(host=network.address("registry"), prefix=network.prefix("registry"))
        cluster = start_cluster(processes, (node,), registry)
        return measures.forward_ready("second", count, cluster.exports, network.prefix("client"))


def cold_visits(folder: Path, count: int) -> list[Goal]:
    """Each of `count` tunnels is visited at a node of the other region that has no route to it yet; then once more."""
    home, near = Place("home", "fra"), Place("near", "iad")
    client, far_visitor = Place("client", "fra", access=2.0), Place("visitor", "iad", access=4.0)
    distances = {("fra", "iad"): LONG - home.access - near.access}
    with Processes(folder) as processes:
        network = start_network(processes, (home, near, client, far_visitor), distances)
        nodes = tuple(node_plan(network, place.name, place.region) for place in (home, near))
        registry = RegistryPlan(host=network.address("home"), prefix=network.prefix("home"))
        cluster = start_cluster(processes, nodes, registry)
        names = [f"cold-{number}" for number in range(count)]
        running = start_client(processes, "client", names, cluster.exports, network.prefix("client"))
        tunnels = wait_tunnels(processes, running)
        listens = {node.plan.name: node.listen for node in cluster.nodes}
        with network.inside("visitor"):
            taken = {
                "first": [_visit(cluster, listens["near"], tunnels[name]) for name in names],
                "later": [_visit(cluster, listens["near"], tunnels[name]) for name in names],
                "at home": [_visit(cluster, listens["home"], tunnels[name]) for name in names],
            }
        with network.inside("client"):
            taken["beside it"] = [_visit(cluster, listens["home"], tunnels[name]) for name in names]
    first, later, at_home, beside = (statistics.median(each) * 1000 for each in taken.values())
    # TCP and TLS handshakes with the near node, then request and answer: each is one round trip on its path.
    # The CPU time of all that is what a visit without distance takes.
    to_client = round_trip(home, client, distances)
    work = beside - 4 * to_client
    ideal = 3 * round_trip(far_visitor, near, distances) + LONG + to_client + work
    note = f"what the bytes need: {ideal:.0f} ms, {work:.0f} of them this machine's work"
    return [
        Goal("cold visit, 100 ms away, of a name new to its node", first, "ms", ideal + LONG + _SLACK, note=note),
        Goal("the same of a name that it knows", later, "ms", ideal + _SLACK, note=note),
        Goal("the same at the home node, 100 ms away", at_home, "ms"),
    ]


def nearest(folder: Path, count: int) -> list[Goal]:
    """A client near one of three regions that GeoIP cannot locate, each time in a new process."""
    ready, homes = [], Counter[str]()
    with Processes(folder) as processes:
        regions = start_regions(processes)
        prefix = regions.network.prefix(CLIENT.name)
        for number in range(count):
            name = f"client-{number}"
            client = start_client(processes, name, [name], regions.cluster.exports, prefix)
            tunnel = wait_tunnels(processes, client)[name]
            homes[tunnel.host.split(".")[1]] += 1
            ready.append(tunnel.ready_ms)
    nearest_ones = homes[CLIENT.region]
    return [
        Goal(
            "clients that attach to the nearest of three", nearest_ones / count, "", 1.0, False, note=str(dict(homes))
        ),
        Goal("their forward() in a new process, registry 94 ms away", statistics.median(ready), "ms"),
    ]


def etcd_far_away(folder: Path, program: Path, count: int) -> list[Goal]:
    """forward() with etcd near the registry, and with a round trip of 150 ms between the two."""
    found: dict[float, dict[str, measures.Figures]] = {}
    for away in (1.0, ETCD_ROUND_TRIP):
        place = folder / f"etcd-{away:.0f}"
        place.mkdir()
        with Processes(place) as processes:
            places = (
                Place("etcd", "there", 0.0),
                Place("node", "here"),
                Place("client", "here"),
                Place("registry", "here"),
            )
            network = start_network(processes, places, {("here", "there"): away})
            start_etcd(processes, program, network.address("etcd"), network.prefix("etcd"))
            cluster = _with_etcd(processes, network)
            prefix = network.prefix("client")
            found[away] = {
                kind: measures.forward_ready(kind, count, cluster.exports, prefix) for kind in ("warm", "second")
            }
    goals = []
    for kind, title in (("warm", "forward(), etcd 150 ms away"), ("second", "second tunnel, etcd 150 ms away")):
        near, far = (figures[kind]["median_ms"] for figures in found.values())
        # One request to etcd would add 150 ms; less than 1 ms is noise of this machine.
        goals.append(Goal(title, far, "ms", near + 1.0, note=f"with etcd near: {near:.1f} ms"))
    return goals


def black_hole(folder: Path, times: int) -> list[Goal]:
    """All packets of the home node are lost while sockets stay open; a visitor at another node retries at once."""
    taken = []
    with Processes(folder) as processes:
        regions = start_regions(processes)
        network, cluster = regions.network, regions.cluster
        admin = network.prefix(REGISTRY.name)
        client = start_client(processes, "client", ["lost"], cluster.exports, network.prefix(CLIENT.name))
        tunnel = wait_tunnels(processes, client)["lost"]
        listens = {node.plan.name: (node.plan.region, node.listen) for node in cluster.nodes}
        for _ in range(times):
            home = home_of(cluster, tunnel, admin)
            place = listens[home][0]
            ingress = next(listen for region, listen in listens.values() if region != place)
            around = [other for other in network.places if other != place]
            with network.inside(VISITOR.name):
                serves_after(partial(_visit, cluster, ingress, tunnel))
                for other in around:
                    network.cut(place, other)
                taken.append(serves_after(partial(_visit, cluster, ingress, tunnel, _RELOAD_TIMEOUT)))
                for other in around:
                    network.mend(place, other)
                serves_after(partial(_visit, cluster, listens[home][1], tunnel, _RELOAD_TIMEOUT))
    return [Goal(f"URL serves again, home in a black hole, worst of {times}", max(taken), "s", 12.0)]


def _visit(cluster: Cluster, ingress: str, tunnel: NamedTunnel, timeout: float = _TIMEOUT) -> float:
    """Seconds from connecting to the last byte. Raises OSError."""
    context = visitor_context(cluster.ca)
    began = time.monotonic()
    with connect(context, ingress, tunnel, timeout) as connection:
        ask(connection, tunnel, _PAGE)
        return time.monotonic() - began


def _with_etcd(processes: Processes, network: Network) -> Cluster:
    store = f"etcd:http://{network.address('etcd')}:{ETCD_PORT}"
    registry = RegistryPlan(host=network.address("registry"), prefix=network.prefix("registry"), store=store)
    node = NodePlan("here-1", "here", 0.0, 0.0, host=network.address("node"), prefix=network.prefix("node"))
    return start_cluster(processes, (node,), registry)
