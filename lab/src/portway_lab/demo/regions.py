"""The demo in three emulated regions: which node a client attaches to, and how long a distant visitor waits.

Here: a tunnel from the client's place, visits from the visitor's, how to run a command in each place. Not here: the
places and the cluster (cluster/regions.py), when the demo ends (command.py).
"""

import shlex
import subprocess
import sys
from pathlib import Path

from portway_lab.cluster.clients import start_client, wait_tunnels
from portway_lab.cluster.network import Network
from portway_lab.cluster.portway import Cluster, RunningNode
from portway_lab.cluster.processes import Processes, ProcessFailed
from portway_lab.cluster.regions import CLIENT, DISTANCES, PLACES, VISITOR, Regions, distance

_REQUEST_SECONDS = "20"


def exports(network: Network) -> dict[str, str]:
    """The environment variable with which another program finds the places."""
    return {"PORTWAY_DEMO_PLACES": ",".join(f"{place}={network.namespace(place)}" for place in network.places)}


def show(regions: Regions, processes: Processes) -> None:
    """Open a tunnel and visit it, each from its place, and print the times. Raises ProcessFailed."""
    network, cluster = regions.network, regions.cluster
    between = ", ".join(f"{one}–{other} {ms:.0f} ms" for (one, other), ms in DISTANCES.items())
    print(f"Portway runs here in three regions; round trips between them: {between}")
    for place in PLACES:
        name = place.name
        print(f"    {name:<9} in {place.region}  {network.address(name):<12} {network.namespace(name)}")
    client = start_client(processes, "client", ["hello"], cluster.exports, network.prefix(CLIENT.name))
    tunnel = wait_tunnels(processes, client)["hello"]
    print(f"\nThe client, near {CLIENT.region}, had its tunnel after {tunnel.ready_ms:.0f} ms:\n    {tunnel.url}")
    print(f"\nA visitor, near {VISITOR.region}, requests it at each node:")
    print(f"    {'node':<9} {'round trip to it':>16} {'first visit':>12} {'second':>10}")
    for node in cluster.nodes:
        away = distance(VISITOR.name, node.plan.region)
        first, second = (_visit(network, cluster, node, tunnel.url) * 1000 for _ in range(2))
        print(f"    {node.plan.name:<9} {away:>13.0f} ms {first:>9.0f} ms {second:>7.0f} ms")
    nearest = next(node for node in cluster.nodes if node.plan.region == VISITOR.region)
    print("\nThe same by hand, and a tunnel of your own:")
    print(f"    {shlex.join(_curl(network, cluster, nearest, tunnel.url))}")
    environment = shlex.join(f"{name}={value}" for name, value in cluster.exports.items())
    command = shlex.join([*network.prefix(CLIENT.name), "env"])
    print(f"    {command} {environment} {Path(sys.executable).with_name('portway')} forward 8000", flush=True)


def _curl(network: Network, cluster: Cluster, node: RunningNode, url: str) -> list[str]:
    command = [*network.prefix(VISITOR.name), "curl", "--silent", "--show-error", "--fail", "--noproxy", "*"]
    return [*command, "--cacert", str(cluster.ca), "--connect-to", f"::{node.listen}", url]


def _visit(network: Network, cluster: Cluster, node: RunningNode, url: str) -> float:
    """Seconds until the visitor has the whole answer."""
    command = _curl(network, cluster, node, url)
    options = ["--max-time", _REQUEST_SECONDS, "--output", "/dev/null", "--write-out", "%{time_total}"]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ProcessFailed("curl is missing: install it (Debian: apt-get install curl)") from error
    if done.returncode != 0:
        raise ProcessFailed(f"the visit at {node.plan.name} failed: {done.stderr.strip()}")
    return float(done.stdout)
