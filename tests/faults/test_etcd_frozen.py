"""etcd is unreachable for 30 s: connections to it stay open, and nothing answers."""

import threading
from collections.abc import Callable

import portway
import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import TunnelWatch, is_consistent, serves
from portway_testkit.waiting import eventually

AWAY = 30.0  # twice a node's lease


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nodes_and_clients_go_on(make_cluster: Callable[..., Cluster], as_client: AsClient, etcd: EtcdServer) -> None:
    """Tunnels serve and new ones open all the while; leases that ran out meanwhile are replaced, nothing is lost."""
    cluster = make_cluster(store=f"etcd:{etcd.url}")
    as_client(cluster.environment())
    thawed = threading.Timer(AWAY, etcd.resume)
    with (
        TunnelWatch(cluster.admin) as watch,
        HttpOrigin() as origin,
        HttpOrigin() as other,
        portway.forward(origin.port) as tunnel,
    ):
        eventually(lambda: watch.shows(tunnel))
        etcd.pause()
        thawed.start()
        try:
            with portway.forward(other.port) as second:
                while thawed.is_alive():
                    assert serves(tunnel, cluster.ca)
                    assert serves(second, cluster.ca)
                    thawed.join(1.0)
                eventually(lambda: watch.shows(tunnel, second))
                eventually(lambda: is_consistent(cluster, tunnel, second))
            eventually(lambda: watch.shows(tunnel))
            eventually(lambda: [node.name for node in cluster.admin.nodes()] == ["fra-1"])
        finally:
            thawed.cancel()
            thawed.join()
