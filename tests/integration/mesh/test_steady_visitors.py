"""A node that stops while visitors keep coming, whose name has a second address that they try when one refuses them."""

import asyncio
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import portway
import pytest
import uvloop
from portway_relay.config import NodeLimits
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import LOOPBACK, Cluster, NodePlan
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.processes.ports import raw_port_range
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.steady import SteadyVisitors
from portway_testkit.waiting import PATIENCE, eventually

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
OTHER = "127.0.0.2"
ADDRESSES = (LOOPBACK, OTHER)
# A stop that visitors who keep coming make longer takes more than any test may.
LIMITS = NodeLimits(stop_grace=10 * PATIENCE)


def two_nodes(start_cluster: Callable[..., Cluster], loop: str = "uvloop", lame_duck: float = 0.0) -> Cluster:
    """Of one region, at one port, and at one for plain HTTP."""
    port, http_port = raw_port_range(2)
    settings = [
        {"listen": Endpoint(address, port), "http_listen": Endpoint(address, http_port)} for address in ADDRESSES
    ]
    plans = [
        NodePlan(f"fra-{number}", "fra", LIMITS, one, lame_duck=lame_duck) for number, one in enumerate(settings, 1)
    ]
    cluster = start_cluster(*plans, loop=LOOPS[loop])
    eventually(lambda: connected(cluster))
    return cluster


def http_port_of(cluster: Cluster) -> int:
    at = cluster.node.config.http_listen
    assert isinstance(at, Endpoint)
    return at.port


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("stopped", ["home", "entrance"])
def test_none_fails_and_the_stop_is_soon(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin, loop: str, stopped: str
) -> None:
    """At the public port, at a raw port and at that for plain HTTP; the stop takes as long as the visits that were in
    progress when the ports closed."""
    cluster = two_nodes(start_cluster, loop)
    as_client(cluster.environment())
    with portway.forward(origin.port, unencrypted=True) as tunnel:
        homes = [name for name, node in cluster.nodes.items() if node.metrics()["sessions"]]
        name = homes[0] if stopped == "home" else next(name for name in cluster.nodes if name not in homes)
        here = cluster.nodes[name].config.listen.host
        there = next(address for address in ADDRESSES if address != here)
        with SteadyVisitors(tunnel, cluster.ca, (here, there), http_port_of(cluster)) as visitors:
            visitors.wait_served(here)
            cluster.nodes[name].stop()
            visitors.wait_served(there)
        assert visitors.failures == []


def test_curl_tries_the_next_address(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin
) -> None:
    """When the first of two refuses it; none of its visits fails."""
    cluster = two_nodes(start_cluster)
    as_client(cluster.environment())
    over = False

    def keep_visiting(number: int) -> list[str]:
        addresses = ADDRESSES if number % 2 else ADDRESSES[::-1]
        resolve = f"{tunnel.host}:{tunnel.port}:{','.join(addresses)}"
        command = ["curl", "-sS", "--noproxy", "*", "--cacert", str(cluster.ca), "--resolve", resolve, tunnel.url]
        wrong = []
        while not over:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or done.stdout != "origin\n":
                wrong.append(f"{done.returncode} {done.stdout} {done.stderr}")
        return wrong

    with portway.forward(origin.port) as tunnel, ThreadPoolExecutor(4) as threads:
        visiting = [threads.submit(keep_visiting, number) for number in range(4)]
        cluster.node.stop()
        over = True
        assert [one.result(PATIENCE) for one in visiting] == [[]] * 4


def test_visitors_are_served_for_as_long_as_balancers_need(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin
) -> None:
    """Also those who have no other address, and those who come after its clients have left."""
    cluster = two_nodes(start_cluster, lame_duck=1.0)
    as_client(cluster.environment())
    with portway.forward(origin.port, unencrypted=True) as tunnel, ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        stopping = threads.submit(cluster.node.stop)
        with SteadyVisitors(tunnel, cluster.ca, [LOOPBACK], http_port_of(cluster)) as visitors:
            visitors.wait_served(LOOPBACK)
        assert visitors.failures == []
        stopping.result(PATIENCE)
        assert time.monotonic() - began >= 1.0
