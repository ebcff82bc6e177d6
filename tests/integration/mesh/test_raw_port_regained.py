"""A raw tunnel leaves its region and comes back: it is there at its old port again."""

from collections.abc import Callable

import portway
import pytest
from portway_proto.v1.admin_pb2 import NODE_ORDER_DRAIN, NODE_ORDER_SERVE
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, NODE_STATE_READY
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.origins import TcpOrigin, echo
from portway_testkit.waiting import eventually

PLANS = (NodePlan("fra-1", "fra"), NodePlan("fra-2", "fra"), NodePlan("nyc-1", "nyc"))


@pytest.fixture
def cluster(start_cluster: Callable[..., Cluster], as_client: AsClient) -> Cluster:
    """Two nodes of one region and one of another, which know of each other, and this process their client."""
    cluster = start_cluster(*PLANS)
    eventually(lambda: connected(cluster))
    as_client(cluster.environment())
    return cluster


def state_of(cluster: Cluster, name: str) -> int:
    return next((node.state for node in cluster.admin.nodes() if node.name == name), 0)


def raw_port_at(cluster: Cluster, node: str, tunnel: portway.Tunnel) -> int:
    """The raw port that a node has for the tunnel; 0 when the tunnel is not there."""

    async def port() -> int:
        found = cluster.nodes[node].node._routing.tunnels.live(tunnel.host.partition(".")[0])
        return found.raw.port if found is not None and found.raw is not None else 0

    return cluster.run(port)


def test_a_tunnel_that_comes_back_to_its_region_has_its_port_again(cluster: Cluster) -> None:
    """At the other node of it, too: elsewhere the client kept the ticket of the port that the tunnel is known by."""
    cluster.admin.order("nyc-1", NODE_ORDER_DRAIN)
    eventually(lambda: state_of(cluster, "nyc-1") == NODE_STATE_DRAINING)
    with TcpOrigin(echo) as origin, portway.forward(origin.port, unencrypted=True) as tunnel:
        first, sibling = ("fra-1", "fra-2") if raw_port_at(cluster, "fra-1", tunnel) else ("fra-2", "fra-1")
        cluster.admin.order(sibling, NODE_ORDER_DRAIN)
        cluster.admin.order("nyc-1", NODE_ORDER_SERVE)
        eventually(lambda: state_of(cluster, "nyc-1") == NODE_STATE_READY)
        cluster.admin.order(first, NODE_ORDER_DRAIN)
        eventually(lambda: raw_port_at(cluster, "nyc-1", tunnel) > 0)
        eventually(lambda: raw_port_at(cluster, first, tunnel) == 0)
        cluster.admin.order(sibling, NODE_ORDER_SERVE)
        eventually(lambda: state_of(cluster, sibling) == NODE_STATE_READY)
        cluster.admin.order("nyc-1", NODE_ORDER_DRAIN)
        eventually(lambda: raw_port_at(cluster, sibling, tunnel) > 0)
        assert raw_port_at(cluster, sibling, tunnel) == tunnel.unencrypted_port
