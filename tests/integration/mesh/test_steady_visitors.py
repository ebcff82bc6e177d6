"""A node that stops, or is restarted, while visitors keep coming: they try a name's next address when one refuses them.

Nobody is reset, and no name is unknown that exists.
"""

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import portway
import pytest
import uvloop
from portway_relay.config import NodeLimits
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import LOOPBACK, Cluster, NodePlan, RunningNode
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.processes.ports import raw_port_range
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.steady import SteadyVisitors
from portway_testkit.visitors.visiting import connect_tls, tls_context
from portway_testkit.waiting import PATIENCE, eventually

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
OTHER = "127.0.0.2"
ADDRESSES = (LOOPBACK, OTHER)
FAR = "127.0.0.3"
HEARING_TIME = 3.0  # as by default
# A stop that visitors who keep coming make longer takes more than any test may.
LIMITS = NodeLimits(stop_grace=10 * PATIENCE)


def three_nodes(start_cluster: Callable[..., Cluster], loop: str = "uvloop", lame_duck: float = 0.0) -> Cluster:
    """Of one region, and one of another, at one port, and at one for plain HTTP."""
    port, http_port = raw_port_range(2)
    plans = [
        NodePlan(
            name,
            name.partition("-")[0],
            LIMITS,
            {"listen": Endpoint(address, port), "http_listen": Endpoint(address, http_port)},
            lame_duck=lame_duck,
            hearing_time=HEARING_TIME,
        )
        for name, address in (("fra-1", LOOPBACK), ("fra-2", OTHER), ("iad-1", FAR))
    ]
    cluster = start_cluster(*plans, loop=LOOPS[loop])
    eventually(lambda: connected(cluster))
    return cluster


def other_than(address: str) -> str:
    return OTHER if address == LOOPBACK else LOOPBACK


def node_at(cluster: Cluster, address: str) -> RunningNode:
    return next(node for node in cluster.nodes.values() if node.config.listen.host == address)


def home_of(cluster: Cluster, tunnel: portway.Tunnel) -> RunningNode:
    name = next(each.node for each in cluster.admin.tunnels() if each.label == tunnel.host.partition(".")[0])
    return cluster.nodes[name]


def http_port_of(cluster: Cluster) -> int:
    at = cluster.node.config.http_listen
    assert isinstance(at, Endpoint)
    return at.port


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("stopped", ["home", "ingress"])
def test_none_fails_and_the_stop_is_soon(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin, loop: str, stopped: str
) -> None:
    """At the public port, at a raw port and at that for plain HTTP; the stop takes as long as the visits that were in
    progress when the ports closed."""
    cluster = three_nodes(start_cluster, loop)
    as_client(cluster.environment())
    with portway.forward(origin.port, unencrypted=True, region="fra") as tunnel:
        eventually(lambda: cluster.admin.tunnels())
        home = home_of(cluster, tunnel).config.listen.host
        here = home if stopped == "home" else other_than(home)
        with SteadyVisitors(tunnel, cluster.ca, (here, other_than(here)), http_port_of(cluster)) as visitors:
            visitors.wait_served(here)
            node_at(cluster, here).stop()
            visitors.wait_served(other_than(here))
        assert visitors.failures == []


def test_curl_tries_the_next_address(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin
) -> None:
    """Through two stops and starts of each of them; none of its visits fails."""
    cluster = three_nodes(start_cluster)
    as_client(cluster.environment())
    over = False
    visits = [0] * 4

    def keep_visiting(number: int) -> list[str]:
        addresses = ADDRESSES if number % 2 else ADDRESSES[::-1]
        resolve = f"{tunnel.host}:{tunnel.port}:{','.join(addresses)}"
        command = ["curl", "-sS", "--noproxy", "*", "--cacert", str(cluster.ca), "--resolve", resolve, tunnel.url]
        wrong = []
        while not over:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or done.stdout != "origin\n":
                wrong.append(f"{done.returncode} {done.stdout} {done.stderr}")
            visits[number] += 1
        return wrong

    def each_has_visited_anew() -> None:
        before = visits.copy()
        eventually(lambda: all(now >= then + 2 for now, then in zip(visits, before, strict=True)))

    with portway.forward(origin.port, region="fra") as tunnel, ThreadPoolExecutor(4) as threads:
        visiting = [threads.submit(keep_visiting, number) for number in range(4)]
        for name in ("fra-1", "fra-2"):
            for _ in range(2):
                cluster.nodes[name].restart()
            each_has_visited_anew()  # or curl would find the first address shut, and a moment later the other one
        over = True
        assert [one.result(PATIENCE) for one in visiting] == [[]] * 4


def test_visitors_are_served_for_as_long_as_balancers_need(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin
) -> None:
    """Also those who have no other address, and those who come after its clients have left."""
    cluster = three_nodes(start_cluster, lame_duck=3.0)
    as_client(cluster.environment())
    with portway.forward(origin.port, unencrypted=True, region="fra") as tunnel, ThreadPoolExecutor(1) as threads:
        node = node_at(cluster, LOOPBACK)
        sessions = node.node._serving.sessions
        visitors = SteadyVisitors(tunnel, cluster.ca, [LOOPBACK], http_port_of(cluster), may_be_refused=True)
        with visitors:
            began = time.monotonic()
            stopping = threads.submit(node.stop)
            eventually(lambda: len(sessions) == sessions.away)
            before = visitors.served.copy()
            stopping.result(PATIENCE)
            assert time.monotonic() - began >= 3.0
        assert visitors.failures == []
        assert all(visitors.served[kind, LOOPBACK] > before[kind, LOOPBACK] for kind in ("tls", "raw", "http"))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_node_that_is_restarted_knows_the_names_of_all_nodes(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin, loop: str
) -> None:
    """Those of tunnels that were its own and moved away, of its region's nodes, and of another region's; twice within a
    second."""
    cluster = three_nodes(start_cluster, loop)
    as_client(cluster.environment())
    with (
        HttpOrigin("other") as other,
        portway.forward(origin.port, unencrypted=True, region="fra") as near,
        portway.forward(other.port, region="iad") as far,
    ):
        eventually(lambda: len(cluster.admin.tunnels()) == 2)
        home = home_of(cluster, near)
        assert home_of(cluster, far).config.listen.host == FAR
        here = home.config.listen.host
        both = (here, other_than(here))
        with (
            SteadyVisitors(near, cluster.ca, both, http_port_of(cluster)) as of_near,
            SteadyVisitors(far, cluster.ca, both) as of_far,
        ):
            for _ in range(2):
                home.restart()
            for visitors in (of_near, of_far):
                visitors.wait_served(here)
        assert of_near.failures == []
        assert of_far.failures == []


def test_a_node_that_was_killed_knows_them_as_soon_as_it_listens(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin
) -> None:
    """Also visitors with no other address, who come from its first moment on, are served."""
    cluster = three_nodes(start_cluster)
    as_client(cluster.environment())
    with portway.forward(origin.port, unencrypted=True, region="fra") as tunnel:
        eventually(lambda: cluster.admin.tunnels())
        home = home_of(cluster, tunnel)
        here = home.config.listen.host
        home.kill()
        visitors = SteadyVisitors(tunnel, cluster.ca, [here], http_port_of(cluster), may_be_refused=True)
        with visitors:
            home.start()
            visitors.wait_served(here)
        assert visitors.failures == []


def test_the_only_node_waits_for_its_client(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin
) -> None:
    """It comes back a moment after the node listens; nobody is told meanwhile that its name is unknown."""
    cluster = start_cluster(NodePlan("fra-1", "fra", hearing_time=HEARING_TIME))
    as_client(cluster.environment())
    with portway.forward(origin.port) as tunnel:
        cluster.node.stop()
        visitors = SteadyVisitors(tunnel, cluster.ca, [LOOPBACK], may_be_refused=True)
        with visitors:
            cluster.node.start()
            visitors.wait_served(LOOPBACK)
        assert visitors.failures == []


def test_without_a_registry_a_node_serves_what_it_knows_after_a_while(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin, tmp_path: Path
) -> None:
    """Which is nothing yet: visitors are refused once the time is over, at once from then on, and it is not ready. As
    soon as a registry is there, it is, and visitors are served."""
    plans = (NodePlan(f"fra-{number}", "fra", hearing_time=0.5) for number in (1, 2))
    cluster = start_cluster(*plans, store=f"embedded:{tmp_path / 'registry.db'}")
    as_client(cluster.environment())
    with portway.forward(origin.port) as tunnel, ThreadPoolExecutor(1) as threads:
        eventually(lambda: cluster.admin.tunnels())
        other = next(node for node in cluster.nodes.values() if node is not home_of(cluster, tunnel))
        other.stop()
        cluster.stop_registry()
        starting = threads.submit(other.start)
        address = (LOOPBACK, other.port)
        try:
            eventually(lambda: is_open(address))
            began = time.monotonic()
            with pytest.raises(ssl.SSLError, match="unrecognized name"):
                connect_tls(tls_context(cluster.ca), address, tunnel.host)
            waited = time.monotonic() - began
            began = time.monotonic()
            with pytest.raises(ssl.SSLError, match="unrecognized name"):
                connect_tls(tls_context(cluster.ca), address, tunnel.host)
            assert time.monotonic() - began < waited < 10.0
            assert not starting.done(), "it is not ready without a registry"
        finally:
            cluster.start_registry()
        starting.result(PATIENCE)
        eventually(lambda: cluster.admin.tunnels())
        connect_tls(tls_context(cluster.ca), address, tunnel.host).close()


def is_open(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return False
    return True
