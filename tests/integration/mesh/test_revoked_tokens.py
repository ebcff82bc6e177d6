"""A token is revoked: its tunnels are closed on every node, and the program is told."""

from collections.abc import Callable
from queue import SimpleQueue

import portway
import pytest
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.fixtures import AsClient
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import breaks_off, is_consistent, serves, visit_attentively
from portway_testkit.waiting import PATIENCE, eventually

WITHIN = 2.0  # seconds, as docs/architecture/trust.md promises


def test_its_tunnels_are_closed_within_two_seconds(
    cluster: Cluster, as_client: AsClient, origin: HttpOrigin, own_time: OwnTime
) -> None:
    """The program's callback and the end of the block both say that it was the token; other tokens' tunnels stay."""
    as_client(cluster.environment())
    doomed = cluster.token(tenant="doomed")
    lost: SimpleQueue[portway.TunnelLostError] = SimpleQueue()
    with portway.forward(origin.port) as kept, HttpOrigin() as other:
        with (  # noqa: PT012 - it is the end of the block that raises
            pytest.raises(portway.TunnelLostError) as caught,
            portway.forward(other.port, token=doomed, tunnel_lost=lost.put) as tunnel,
        ):
            assert serves(tunnel, cluster.ca)
            cluster.admin.revoke_token(doomed)
            began = own_time()  # it is in the store
            told = lost.get(timeout=PATIENCE)
            assert own_time() - began < WITHIN
            assert not serves(tunnel, cluster.ca)
            assert isinstance(told.reason, portway.AuthError)
            assert "revoked" in str(told)
        assert caught.value is told
        assert serves(kept, cluster.ca)
        eventually(lambda: is_consistent(cluster, kept))


def test_a_visit_in_progress_is_cut(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """Who revokes a token wants it to end now."""
    token = cluster.token()
    as_client(cluster.environment(token))
    lost: SimpleQueue[portway.TunnelLostError] = SimpleQueue()
    with (  # noqa: PT012 - it is the end of the block that raises
        pytest.raises(portway.TunnelLostError),
        portway.forward(origin.port, tunnel_lost=lost.put) as tunnel,
    ):
        with visit_attentively(tunnel, cluster.ca) as visitor:
            visitor.sendall(b"GET /events/1000/0.01 HTTP/1.1\r\nHost: here\r\n\r\n")
            assert visitor.recv(1000)
            cluster.admin.revoke_token(token)
            visitor.settimeout(PATIENCE)
            assert breaks_off(visitor)
        lost.get(timeout=PATIENCE)


def test_it_opens_nothing_any_more(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """A process that had a tunnel is told why it gets no other."""
    token = cluster.token()
    as_client(cluster.environment(token))
    lost: SimpleQueue[portway.TunnelLostError] = SimpleQueue()
    with (  # noqa: PT012 - it is the end of the block that raises
        pytest.raises(portway.TunnelLostError),
        portway.forward(origin.port, tunnel_lost=lost.put),
    ):
        cluster.admin.revoke_token(token)
        lost.get(timeout=PATIENCE)
        with pytest.raises(portway.AuthError, match="revoked"), portway.forward(origin.port + 1):
            pass


def test_the_tunnels_on_every_node_are_closed(
    start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin
) -> None:
    """One token, tunnels in two regions: one revocation ends both."""
    cluster = start_cluster(NodePlan("fra-1", "fra"), NodePlan("par-1", "par"))
    token = cluster.token()
    as_client(cluster.environment(token))
    lost: SimpleQueue[portway.TunnelLostError] = SimpleQueue()
    with HttpOrigin() as other, pytest.raises(portway.TunnelLostError):  # noqa: PT012 - the ends of the blocks raise
        with portway.forward(origin.port, region="fra", tunnel_lost=lost.put) as first:
            with portway.forward(other.port, region="par", tunnel_lost=lost.put) as second:
                assert serves(first, cluster.ca)
                assert serves(second, cluster.ca)
                cluster.admin.revoke_token(token)
                assert {lost.get(timeout=PATIENCE).url, lost.get(timeout=PATIENCE).url} == {first.url, second.url}
    eventually(lambda: is_consistent(cluster))
