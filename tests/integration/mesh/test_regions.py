"""Two nodes in two regions: which one a client comes to, and what the names say."""

import dataclasses
import ssl
import time
from collections.abc import Callable

import portway
import pytest
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.mesh_visitors import get
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import is_consistent, serves
from portway_testkit.waiting import eventually


@pytest.fixture
def cluster(start_cluster: Callable[..., Cluster], store: str) -> Cluster:
    return start_cluster(NodePlan("fra-1", "fra"), NodePlan("par-1", "par"), store=store)


@pytest.mark.parametrize(("region", "node"), [("fra", "fra-1"), ("par", "par-1")])
def test_a_region_that_is_asked_for_is_used(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin, region: str, node: str
) -> None:
    """The tunnel's name is of that region, and its node is there."""
    as_client(cluster.environment())
    with portway.forward(origin.port, region=region) as tunnel:
        assert tunnel.host.endswith(f".{region}.localhost")
        assert tunnel.port == cluster.nodes[node].port
        assert serves(tunnel, cluster.ca)
        eventually(lambda: [shown.node for shown in cluster.admin.tunnels()] == [node])
        assert tunnel.host == cluster.admin.tunnels()[0].host


def test_a_region_that_is_not_there_is_a_clear_error(cluster: Cluster, as_client: AsClient) -> None:
    """It names those that are."""
    as_client(cluster.environment())
    with pytest.raises(portway.InvalidError, match=r"'tokyo'.*fra, par"), portway.forward(1, region="tokyo"):
        pass


def test_one_process_may_have_tunnels_in_several_regions(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin
) -> None:
    """A session with a node of each."""
    as_client(cluster.environment())
    with HttpOrigin() as other, portway.forward(origin.port, region="fra") as first:
        with portway.forward(other.port, region="par") as second:
            assert serves(first, cluster.ca)
            assert serves(second, cluster.ca)
            eventually(lambda: is_consistent(cluster, first, second))
            assert [node.metrics()["sessions"] for node in cluster.nodes.values()] == [1, 1]


def test_a_name_outlives_its_region(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """Its client moves to where a node is, which serves the name; back again, its own region's node does too. Operators
    see the URL's host wherever it is."""
    as_client(cluster.environment())
    with portway.forward(origin.port) as tunnel:
        region = tunnel.host.split(".")[1]
        home = next(node for node in cluster.nodes.values() if node.config.region == region)
        other = next(node for node in cluster.nodes.values() if node is not home)
        elsewhere = dataclasses.replace(tunnel, port=other.port)
        home.stop()
        eventually(lambda: serves(elsewhere, cluster.ca))
        listed = (other.config.name, other.config.region, tunnel.host)
        eventually(lambda: [(one.node, one.region, one.host) for one in cluster.admin.tunnels()] == [listed])
        home.start()
        eventually(lambda: serves(tunnel, cluster.ca))
        assert serves(elsewhere, cluster.ca)


def test_without_a_tunnel_a_client_goes_where_there_is_a_node(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin
) -> None:
    """What binds it to a region are its tunnels' names; a process that has none starts afresh."""
    as_client(cluster.environment())
    with portway.forward(origin.port) as tunnel:
        home = next(node for node in cluster.nodes.values() if node.port == tunnel.port)
    home.stop()
    try:
        with portway.forward(origin.port) as tunnel:
            assert tunnel.port != home.port
            assert serves(tunnel, cluster.ca)
    finally:
        home.start()


def test_a_node_says_which_region_it_has_no_certificate_for(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    """As soon as it knows the regions; visitors of its names are refused there and served elsewhere."""
    cluster = start_cluster(NodePlan("fra-1", "fra"), NodePlan("par-1", "par"))
    fra = cluster.nodes["fra-1"]
    fra.stop()
    fra.config = dataclasses.replace(fra.config, tls_cert=fra.config.tls_cert[:1], tls_key=fra.config.tls_key[:1])
    fra.start()
    eventually(lambda: fra.metrics().get('region_certificate_missing{region="par"}') == 1)
    lines = [record.__dict__["region"] for record in caplog.records if "no certificate" in record.message]
    assert lines == ["par"]
    as_client(cluster.environment())
    with portway.forward(origin.port, region="par") as tunnel:
        assert serves(tunnel, cluster.ca)
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized"):
            get(fra, tunnel, cluster.ca)
    assert fra.metrics()['turned_away_total{reason="no_certificate"}'] == 1
    eventually(lambda: [node.lacking_regions for node in cluster.admin.nodes()] == [1, 0])
    assert min(node.certificate_end_s for node in cluster.admin.nodes()) > time.time()
    others = cluster.nodes["par-1"].metrics()
    names = ("node", "fra.localhost", "par.localhost")
    assert not [name for name in others if name.startswith("region_certificate_missing")]
    assert {name for name in others if name.startswith("certificate_end_")} == {
        f'certificate_end_timestamp_seconds{{certificate="{one}"}}' for one in names
    }
