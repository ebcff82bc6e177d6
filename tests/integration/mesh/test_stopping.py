"""A node that is asked to stop, while visits are in progress."""

import threading
from collections.abc import Callable

import portway
from portway_relay.config import NodeLimits
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.origins import HttpOrigin, TcpOrigin, echo
from portway_testkit.visitors.recovery import breaks_off, is_consistent, serves, visit_attentively
from portway_testkit.visitors.visiting import TIMEOUT, visit_raw
from portway_testkit.waiting import PATIENCE, eventually

StartCluster = Callable[..., Cluster]
EVENTS = b"GET /events/1000/0.01 HTTP/1.1\r\nHost: here\r\n\r\n"


def is_refused(tunnel: portway.Tunnel) -> bool:
    """Whether nobody listens on the tunnel's raw port."""
    try:
        visit_raw(tunnel).close()
    except ConnectionRefusedError:
        return True
    return False


def test_it_lets_visits_finish_and_then_shuts_its_doors(start_cluster: StartCluster, as_client: AsClient) -> None:
    """The public port and raw ones are open while visits are in progress, and shut with the last of them."""
    cluster = start_cluster(NodePlan("fra-1", "fra", NodeLimits(stop_grace=PATIENCE)))
    as_client(cluster.environment())
    with TcpOrigin(echo) as origin, portway.forward(origin.port, unencrypted=True) as tunnel:
        with visit_raw(tunnel) as visitor:
            visitor.settimeout(TIMEOUT)
            visitor.sendall(b"before")
            assert visitor.recv(100) == b"before"
            stopping = threading.Thread(target=cluster.node.stop)
            stopping.start()
            with visit_raw(tunnel) as late:
                late.settimeout(TIMEOUT)
                late.sendall(b"late")
                assert late.recv(100) == b"late"
            visitor.sendall(b"after")
            assert visitor.recv(100) == b"after"
        stopping.join(PATIENCE)
        assert not stopping.is_alive(), "the last visit is over, so there is nothing to wait for"
        assert is_refused(tunnel)
        cluster.node.start()
        eventually(lambda: is_consistent(cluster, tunnel))


def test_what_has_not_finished_in_time_is_cut(
    start_cluster: StartCluster, as_client: AsClient, origin: HttpOrigin
) -> None:
    """A visitor that stays for hours does not keep a node from being upgraded."""
    cluster = start_cluster(NodePlan("fra-1", "fra", NodeLimits(stop_grace=0.2)))
    as_client(cluster.environment())
    with portway.forward(origin.port) as tunnel, visit_attentively(tunnel, cluster.ca) as visitor:
        visitor.sendall(EVENTS)
        assert visitor.recv(1000)
        cluster.node.restart()
        assert breaks_off(visitor)
        eventually(lambda: serves(tunnel, cluster.ca))


def test_connections_that_nobody_uses_end_in_order(
    start_cluster: StartCluster, as_client: AsClient, origin: HttpOrigin
) -> None:
    """Kept connections, which may stay for hours, end as when their server closes them: a visitor who uses one next
    opens another, and none sees a connection that broke."""
    # They are idle after a second of the half of it in which nobody is taken any more.
    cluster = start_cluster(NodePlan("fra-1", "fra", NodeLimits(stop_grace=6.0)))
    as_client(cluster.environment())
    with (
        portway.forward(origin.port, unencrypted=True) as tunnel,
        visit_attentively(tunnel, cluster.ca) as visitor,
        visit_raw(tunnel) as raw,
    ):
        for kept in (visitor, raw):
            kept.settimeout(TIMEOUT)
            kept.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            while not kept.recv(1000).endswith(b"origin\n"):
                pass
        cluster.node.stop()
        assert not breaks_off(visitor)
        assert raw.recv(1) == b""


def test_the_registry_forgets_it_at_once(start_cluster: StartCluster, store: str) -> None:
    """It has said goodbye: nobody waits for its lease to run out, and no client is sent to it."""
    cluster = start_cluster(NodePlan("fra-1", "fra"), NodePlan("fra-2", "fra"), store=store, lease_seconds=600)
    cluster.node.stop()
    eventually(lambda: [node.name for node in cluster.admin.nodes()] == ["fra-2"])
