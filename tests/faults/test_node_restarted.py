"""A node is stopped in order and started again on its ports."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import portway
from portway.engine import engine_thread as thread
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import epoch_of, is_consistent, serves
from portway_testkit.visitors.visiting import receive, visit_raw
from portway_testkit.waiting import PATIENCE, eventually

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


def test_the_same_urls_work_again_by_themselves(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """Of all tunnels of a process; nothing is left of the sessions before."""
    as_client(cluster.environment())
    with HttpOrigin() as other, portway.forward(origin.port) as first, portway.forward(other.port) as second:
        assert serves(first, cluster.ca)
        cluster.node.restart()
        eventually(lambda: serves(first, cluster.ca) and serves(second, cluster.ca))
        eventually(lambda: is_consistent(cluster, first, second))
        assert cluster.node.metrics()["sessions"] == 1
    eventually(lambda: is_consistent(cluster))


def test_a_raw_port_is_kept(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """Its ticket outlives the node that signed it: `tcp_socket` is what it was."""
    as_client(cluster.environment())
    with portway.forward(origin.port, unencrypted=True) as tunnel:
        cluster.node.restart()
        eventually(lambda: serves(tunnel, cluster.ca))
        with visit_raw(tunnel) as visitor:
            visitor.sendall(REQUEST)
            assert receive(visitor).endswith(b"origin\n")


def test_it_works_a_second_time(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """Each restart costs an epoch, and there are plenty."""
    as_client(cluster.environment())
    with portway.forward(origin.port) as tunnel:
        epoch = epoch_of(cluster.admin, tunnel)
        for _ in range(2):
            cluster.node.restart()
            eventually(lambda: serves(tunnel, cluster.ca))
        eventually(lambda: is_consistent(cluster, tunnel))
        assert epoch_of(cluster.admin, tunnel) == epoch + 2


def test_a_tunnel_can_be_opened_while_the_node_is_away(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin
) -> None:
    """`forward` waits for the node within its time limit, beside the tunnels that are open."""
    as_client(cluster.environment())
    with portway.forward(origin.port) as tunnel, HttpOrigin() as other, ExitStack() as opened:
        cluster.node.stop()
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(opened.enter_context, portway.forward(other.port, timeout=PATIENCE))
            eventually(lambda: not thread.running_engine().status().attached)
            cluster.node.start()
            second = opening.result(PATIENCE)
        eventually(lambda: serves(second, cluster.ca) and serves(tunnel, cluster.ca))
        eventually(lambda: is_consistent(cluster, tunnel, second))
