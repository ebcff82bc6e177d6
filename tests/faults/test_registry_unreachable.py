"""No registry can be reached, while node and client live on."""

import portway
import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.links.client_link import ClientLink
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import is_consistent, serves
from portway_testkit.waiting import eventually


def test_tunnels_go_on_and_new_ones_open(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """New visitors are served, a second tunnel of the process opens, one that is closed is gone afterwards."""
    as_client(cluster.environment())
    with portway.forward(origin.port) as tunnel, HttpOrigin() as other:
        with HttpOrigin() as third, portway.forward(third.port):
            cluster.stop_registry()
            assert serves(tunnel, cluster.ca)
        with portway.forward(other.port) as second:
            assert serves(second, cluster.ca)
            eventually(lambda: not cluster.node.metrics()["registry_connected"])
            cluster.start_registry()
            eventually(lambda: is_consistent(cluster, tunnel, second))
            assert serves(tunnel, cluster.ca)


def test_a_client_that_loses_its_connection_attaches_again(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin
) -> None:
    """With the node and the grant that it knows: nobody has to be asked."""
    with ClientLink(cluster) as link:
        as_client(cluster.environment())
        with portway.forward(origin.port) as tunnel:
            cluster.stop_registry()
            link.cut()
            eventually(lambda: serves(tunnel, cluster.ca))
            cluster.start_registry()
            eventually(lambda: is_consistent(cluster, tunnel))


def test_a_program_that_starts_meanwhile_is_told(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """It has no grant, and nobody to get one from: the error names the registry and why."""
    as_client(cluster.environment())
    cluster.stop_registry()
    try:
        with pytest.raises(portway.UnreachableError) as caught, portway.forward(origin.port, timeout=5):
            pass
    finally:
        cluster.start_registry()
    assert cluster.registry_address in str(caught.value)
