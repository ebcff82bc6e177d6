"""etcd is killed outright (SIGKILL), is away, and is started again on what it had."""

from collections.abc import Callable

import portway
import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import TunnelWatch, is_consistent, serves
from portway_testkit.waiting import eventually


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster], etcd: EtcdServer) -> Cluster:
    return make_cluster(store=f"etcd:{etcd.url}")


def test_nodes_and_clients_go_on(cluster: Cluster, as_client: AsClient, origin: HttpOrigin, etcd: EtcdServer) -> None:
    """Open tunnels serve, new ones open, of this client and of one that has just come; all are shown once after it."""
    as_client(cluster.environment())
    newcomer = cluster.token(tenant="newcomer")
    with TunnelWatch(cluster.admin) as watch, portway.forward(origin.port) as tunnel:
        eventually(lambda: watch.shows(tunnel))
        etcd.kill()
        assert serves(tunnel, cluster.ca)
        with HttpOrigin() as other, portway.forward(other.port) as second:
            assert serves(second, cluster.ca)
            with HttpOrigin() as third, portway.forward(third.port, token=newcomer) as strangers:
                assert serves(strangers, cluster.ca)
                etcd.start()
                eventually(lambda: watch.shows(tunnel, second, strangers))
                eventually(lambda: is_consistent(cluster, tunnel, second, strangers))
        eventually(lambda: watch.shows(tunnel))
        assert serves(tunnel, cluster.ca)


def test_what_was_closed_meanwhile_is_gone(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin, etcd: EtcdServer
) -> None:
    """A withdrawal waits for the store, however long that is away."""
    as_client(cluster.environment())
    with TunnelWatch(cluster.admin) as watch, portway.forward(origin.port) as kept:
        with HttpOrigin() as other, portway.forward(other.port) as tunnel:
            eventually(lambda: watch.shows(kept, tunnel))
            etcd.kill()
        assert not serves(tunnel, cluster.ca)
        etcd.start()
        eventually(lambda: watch.shows(kept))
        eventually(lambda: is_consistent(cluster, kept))


def test_a_node_that_restarts_meanwhile_is_back_with_the_store(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin, etcd: EtcdServer
) -> None:
    """It waits for a registry that can register it; then the same URL works again by itself."""
    as_client(cluster.environment())
    with TunnelWatch(cluster.admin) as watch, portway.forward(origin.port) as tunnel:
        eventually(lambda: watch.shows(tunnel))
        etcd.kill()
        cluster.node.stop()
        etcd.start()
        cluster.node.start()
        eventually(lambda: serves(tunnel, cluster.ca))
        eventually(lambda: watch.shows(tunnel))
        eventually(lambda: is_consistent(cluster, tunnel))
