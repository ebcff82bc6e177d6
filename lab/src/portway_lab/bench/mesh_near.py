"""The mesh on one machine: what a second node costs a visitor, and how soon a URL works after its home node was killed.

Here: clusters of real nodes on loopback. Not here: nodes far apart (mesh_far.py).
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from portway_lab.bench import contestants, measures
from portway_lab.bench.contestants import Contestant
from portway_lab.bench.endpoint import Endpoint
from portway_lab.bench.report import Goal
from portway_lab.cluster.clients import NamedTunnel, start_client, wait_tunnels
from portway_lab.cluster.portway import LOOPBACK, Cluster, NodePlan, start_cluster
from portway_lab.cluster.processes import Processes, Restartable
from portway_lab.cluster.visits import Ask, ask, connect, visitor_context

_NO_LIMITS = ("--connections-per-second", "1000000", "--connection-burst", "1000000")
PLANS = (
    NodePlan("fra-1", "fra", 50.1, 8.7, flags=_NO_LIMITS),
    NodePlan("iad-1", "iad", 38.9, -77.4, flags=_NO_LIMITS),
    NodePlan("nrt-1", "nrt", 35.8, 140.4, flags=_NO_LIMITS),
)
# Seconds between two attempts at a visit, which is also the error of the figure.
_RETRY_AFTER = 0.01
_VISIT_TIMEOUT = 5.0
_HOME_KNOWN_WITHIN = 30.0
_SMALL = Ask(100)


def second_node(folder: Path, nginx: str, rounds: int, seconds: float, size: int) -> list[Goal]:
    """The same tunnel visited at its home node and at another node, in turns."""
    with Processes(folder) as processes:
        cluster = start_cluster(processes, PLANS[:2])
        origin = contestants.start_origin(processes, nginx)
        held = contestants.start_portway(processes, cluster, origin)
        host = held.endpoint.server_name or ""
        home, other = _home_first(cluster, host)
        ways = [
            Contestant(name, Endpoint(LOOPBACK, int(listen.rpartition(":")[2]), host, str(cluster.ca)))
            for name, listen in (("one node", home), ("two nodes", other))
        ]
        latency: dict[str, list[float]] = {way.name: [] for way in ways}
        bulk: dict[str, list[float]] = {way.name: [] for way in ways}
        for _ in range(rounds):
            for way in ways:
                latency[way.name].append(measures.latency(way, seconds)["p50_us"])
            for way in ways:
                bulk[way.name].append(measures.bulk(way, size)["mb_per_s"])
    one, two = (statistics.median(latency[way.name]) for way in ways)
    one_bulk, two_bulk = (statistics.median(bulk[way.name]) for way in ways)
    return [
        Goal("median latency that the second node adds", two - one, "µs", 100.0, note=f"{one:.0f} and {two:.0f} µs"),
        Goal(
            "bulk across two nodes, against one",
            two_bulk / one_bulk,
            "×",
            0.6,
            at_most=False,
            note=f"{one_bulk:.0f} and {two_bulk:.0f} MB/s",
        ),
    ]


def home_killed(folder: Path, kills: int) -> list[Goal]:
    """The home node of an idle tunnel is killed `kills` times; a visitor at another node retries until the URL
    works."""
    taken = []
    with Processes(folder) as processes:
        cluster = start_cluster(processes, PLANS)
        nodes = {node.plan.name: Restartable(processes, node.process) for node in cluster.nodes}
        listens = {node.plan.name: node.listen for node in cluster.nodes}
        client = start_client(processes, "client", ["idle"], cluster.exports)
        tunnel = wait_tunnels(processes, client)["idle"]
        for number in range(kills):
            home = home_of(cluster, tunnel)
            others = sorted(set(nodes) - {home})
            ingress = listens[others[number % len(others)]]
            visit = visitor(cluster, ingress, tunnel)
            serves_after(visit)  # its node has the route now
            nodes[home].kill()
            taken.append(serves_after(visit))
            nodes[home].start()
    return [
        Goal(f"URL serves again after kill -9 of its home, median of {kills}", statistics.median(taken), "s", 1.0),
        Goal("the same, worst", max(taken), "s", note="at another node"),
    ]


def visitor(cluster: Cluster, ingress: str, tunnel: NamedTunnel) -> Callable[[], None]:
    """A function that makes one visit at the node `ingress`, host:port; it raises OSError when the visit fails."""
    context = visitor_context(cluster.ca)

    def visit() -> None:
        with connect(context, ingress, tunnel, _VISIT_TIMEOUT) as connection:
            ask(connection, tunnel, _SMALL)

    return visit


def serves_after(visit: Callable[[], object], give_up: float = 60.0) -> float:
    """Seconds until a visit succeeds, retried at once. Raises the last failure after `give_up` seconds."""
    began = time.monotonic()
    while True:
        try:
            visit()
        except OSError:
            if time.monotonic() - began > give_up:
                raise
            time.sleep(_RETRY_AFTER)
        else:
            return time.monotonic() - began


def home_of(cluster: Cluster, tunnel: NamedTunnel, prefix: tuple[str, ...] = ()) -> str:
    """The tunnel's home node by the registry, once that node is among those that it lists. Raises RuntimeError."""
    deadline = time.monotonic() + _HOME_KNOWN_WITHIN
    while True:
        found = {one["label"]: one["node"] for one in cluster.ask("tunnel", "list", prefix=prefix)["tunnels"]}
        known = {one["name"] for one in cluster.ask("node", "list", prefix=prefix)["nodes"]}
        if found.get(tunnel.label) in known:
            home: str = found[tunnel.label]
            return home
        if time.monotonic() > deadline:
            raise RuntimeError(f"the registry names no known home of {tunnel.name}: {found}")


def _home_first(cluster: Cluster, host: str) -> tuple[str, str]:
    """Addresses of the tunnel's home node and of the other one; the region in its name is that of its home."""
    region = host.split(".")[1]
    home = next(node.listen for node in cluster.nodes if node.plan.region == region)
    return home, next(node.listen for node in cluster.nodes if node.plan.region != region)
