"""The connections between a client and its node are reset, while both live on."""

import portway
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.links.client_link import ClientLink
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import breaks_off, epoch_of, is_consistent, serves, visit_attentively
from portway_testkit.waiting import eventually


def test_the_session_is_resumed(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """The same URL works again under the same epoch, in the session that the node has kept."""
    with ClientLink(cluster) as link:
        as_client(cluster.environment())
        with portway.forward(origin.port) as tunnel:
            assert serves(tunnel, cluster.ca)
            epoch = epoch_of(cluster.admin, tunnel)
            for _ in range(3):
                link.cut()
                eventually(lambda: serves(tunnel, cluster.ca))
            eventually(lambda: is_consistent(cluster, tunnel))
            assert epoch_of(cluster.admin, tunnel) == epoch
            assert cluster.node.metrics()["sessions"] == 1


def test_a_visit_in_progress_is_reset_and_not_left_hanging(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin
) -> None:
    """Its lane is gone: the visitor is told at once, and the next one is served."""
    with ClientLink(cluster) as link:
        as_client(cluster.environment())
        with portway.forward(origin.port) as tunnel, visit_attentively(tunnel, cluster.ca) as visitor:
            visitor.sendall(b"GET /events/1000/0.01 HTTP/1.1\r\nHost: here\r\n\r\n")
            assert visitor.recv(1000)
            link.cut()
            assert breaks_off(visitor)
            eventually(lambda: serves(tunnel, cluster.ca))
            eventually(lambda: is_consistent(cluster, tunnel))


def test_a_client_keeps_trying_while_nothing_can_be_reached(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin
) -> None:
    """Visitors are turned away meanwhile and not kept waiting; the tunnel is back with the network."""
    with ClientLink(cluster) as link:
        as_client(cluster.environment())
        with portway.forward(origin.port) as tunnel:
            link.cut(refuse=True)
            eventually(lambda: cluster.node.metrics()["sessions_away"] == 1)
            assert not serves(tunnel, cluster.ca)
            eventually(lambda: not cluster.admin.tunnels())
            link.mend()
            eventually(lambda: serves(tunnel, cluster.ca))
            eventually(lambda: is_consistent(cluster, tunnel))


def test_a_tunnel_closed_meanwhile_is_gone_afterwards(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin
) -> None:
    """What was closed while the node could not be told is told to the resumed session."""
    with ClientLink(cluster) as link, HttpOrigin() as other:
        as_client(cluster.environment())
        with portway.forward(origin.port) as kept:
            with portway.forward(other.port):
                link.cut(refuse=True)
                eventually(lambda: cluster.node.metrics()["sessions_away"] == 1)
            link.mend()
            eventually(lambda: is_consistent(cluster, kept))
