"""The mesh over distance: cold visits, the nearest node, an etcd that is far away, a node in a black hole.

Here: clusters in network namespaces, visited from one. Not here: the mesh on one machine (mesh_near.py).
"""

import statistics
import time
from collections import Counter
from functools import partial
from pathlib import Path

from portway_lab.bench import measures
from portway_lab.bench.goals import Goal
from portway_lab.bench.mesh_near import home_of, serves_after
from portway_lab.cluster.clients import NamedTunnel, start_client, wait_tunnels
from portway_lab.cluster.etcd import PORT as ETCD_PORT
from portway_lab.cluster.etcd import start_etcd
from portway_lab.cluster.network import Network, Place, round_trip, start_network
from portway_lab.cluster.own_answers import Ask
from portway_lab.cluster.portway import Cluster, NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_lab.cluster.regions import CLIENT, REGISTRY, VISITOR, node_plan, start_regions
from portway_lab.cluster.visits import ask, connect, visitor_context

LONG = 100.0  # ms between the regions of a cold visit
ETCD_ROUND_TRIP = 150.0
_TIMEOUT = 30.0
# Somebody who reloads: enough for a visit over the longest way; when a URL serves again is known no finer than that.
_IMPATIENT = 1.0
# One segment. Kernels with BBR pace longer answers at the rate that a quiet connection has shown, whoever's it is:
# 10 kB take 20 ms more at this distance, which would be taken for the mesh's.
_PAGE = Ask(1_000)
# Asking a registry takes processors some milliseconds too; one round trip too many would be five times as much.
_SLACK = LONG / 5


def cold_visits(folder: Path, count: int) -> list[Goal]:
    """Each of `count` tunnels is visited from the other region, where nobody has heard of it; then once more."""
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
    # Connection and handshake with the near node, the request and its answer: each crosses its ways once and back.
    # What this machine's processors take for all that is seen in a visit without distance.
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
    """A client near one of three regions, each time in a new process, that GeoIP cannot place."""
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
    """forward() with etcd beside the registry, and with 150 ms between the two."""
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
        # No slower: one more question to etcd would cost 150 ms; what is less than 1 ms is this machine's.
        goals.append(Goal(title, far, "ms", near + 1.0, note=f"with etcd at hand: {near:.1f} ms"))
    return goals


def black_hole(folder: Path, times: int) -> list[Goal]:
    """The home node's packets are lost, sockets stay open: a visitor at another node tries without pause."""
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
            entrance = next(listen for region, listen in listens.values() if region != place)
            around = [other for other in network.places if other != place]
            with network.inside(VISITOR.name):
                serves_after(partial(_visit, cluster, entrance, tunnel))
                for other in around:
                    network.cut(place, other)
                taken.append(serves_after(partial(_visit, cluster, entrance, tunnel, _IMPATIENT)))
                for other in around:
                    network.mend(place, other)
                serves_after(partial(_visit, cluster, listens[home][1], tunnel, _IMPATIENT))
    return [Goal(f"URL serves again, home in a black hole, worst of {times}", max(taken), "s", 12.0)]


def _visit(cluster: Cluster, entrance: str, tunnel: NamedTunnel, timeout: float = _TIMEOUT) -> float:
    """Seconds from dialling to the last byte. Raises OSError."""
    context = visitor_context(cluster.ca)
    began = time.monotonic()
    with connect(context, entrance, tunnel, timeout) as connection:
        ask(connection, tunnel, _PAGE)
        return time.monotonic() - began


def _with_etcd(processes: Processes, network: Network) -> Cluster:
    store = f"etcd:http://{network.address('etcd')}:{ETCD_PORT}"
    registry = RegistryPlan(host=network.address("registry"), prefix=network.prefix("registry"), store=store)
    node = NodePlan("here-1", "here", 0.0, 0.0, host=network.address("node"), prefix=network.prefix("node"))
    return start_cluster(processes, (node,), registry)
