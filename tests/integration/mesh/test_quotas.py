"""A tenant may have so many tunnels open at once, and a token less, whichever nodes they are on."""

from collections.abc import Callable
from queue import SimpleQueue

import portway
import pytest
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import is_consistent, serves
from portway_testkit.waiting import PATIENCE, eventually


@pytest.fixture(autouse=True)
def patient_with_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is refused while the store is away, as one that answers late is taken to be."""
    monkeypatch.setattr("portway_registry.tunnels.quota._ANSWER_TIME", PATIENCE)


def test_one_tunnel_too_many_is_a_clear_error(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """It says how many there may be and what to do; those that are open go on, and there is room when one closes."""
    as_client(cluster.environment(cluster.token(max_tunnels=2)))
    with portway.forward(origin.port) as tunnel, HttpOrigin() as other:
        with portway.forward(1):
            with pytest.raises(portway.QuotaError, match=r"2 tunnels .*close one"), portway.forward(other.port):
                pass
            assert serves(tunnel, cluster.ca)
        with portway.forward(other.port) as second:
            eventually(lambda: serves(second, cluster.ca))
            eventually(lambda: is_consistent(cluster, tunnel, second))


def test_the_quota_holds_over_two_nodes(
    start_cluster: Callable[..., Cluster], store: str, as_client: AsClient, origin: HttpOrigin
) -> None:
    """The second node does not know of the first one's: the registry takes the tunnel back, and the program is told."""
    cluster = start_cluster(NodePlan("fra-1", "fra"), NodePlan("par-1", "par"), store=store)
    as_client(cluster.environment(cluster.token(tenant="few")))
    # From here on no registry is asked before a tunnel is opened there.
    with portway.forward(1, region="par") as first:
        eventually(lambda: is_consistent(cluster, first))  # one that is shown later counts later
    cluster.admin.set_quota("few", 1)
    eventually(lambda: is_consistent(cluster))
    lost: SimpleQueue[portway.TunnelLostError] = SimpleQueue()
    with portway.forward(origin.port, region="fra") as tunnel, HttpOrigin() as other:
        eventually(lambda: is_consistent(cluster, tunnel))
        with (  # noqa: PT012 - it is the end of the block that raises
            pytest.raises(portway.TunnelLostError) as caught,
            portway.forward(other.port, region="par", tunnel_lost=lost.put) as second,
        ):
            told = lost.get(timeout=PATIENCE)
            assert isinstance(told.reason, portway.QuotaError)
            assert "1 tunnels" in str(told)
            assert "close one" in str(told)
            assert not serves(second, cluster.ca)
        assert caught.value is told
        assert serves(tunnel, cluster.ca)
        eventually(lambda: is_consistent(cluster, tunnel))
    eventually(lambda: is_consistent(cluster))
    with portway.forward(origin.port, region="par") as tunnel:
        assert serves(tunnel, cluster.ca)


def test_a_tenant_s_tokens_share_its_quota(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """A second token gives no further tunnels; a larger quota does."""
    cluster.admin.set_quota("few", 1)
    as_client(cluster.environment(cluster.token(tenant="few")))
    with portway.forward(origin.port) as tunnel, HttpOrigin() as other:
        eventually(lambda: is_consistent(cluster, tunnel))
        more = cluster.token(tenant="few")
        with (
            pytest.raises(portway.QuotaError, match=r"tenant few may have 1 tunnels .*close one"),
            portway.forward(other.port, token=more),
        ):
            pass
        assert serves(tunnel, cluster.ca)
        cluster.admin.set_quota("few", 2)
        with portway.forward(other.port, token=more) as second:
            assert serves(second, cluster.ca)
            eventually(lambda: is_consistent(cluster, tunnel, second))


def test_a_lower_quota_ends_the_newest_tunnel_alone(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """The program is told which, and the number; its other tunnel goes on."""
    as_client(cluster.environment(cluster.token(tenant="less")))
    lost: SimpleQueue[portway.TunnelLostError] = SimpleQueue()
    with portway.forward(origin.port) as tunnel, HttpOrigin() as other:
        eventually(lambda: is_consistent(cluster, tunnel))
        with (  # noqa: PT012 - it is the end of the block that raises
            pytest.raises(portway.TunnelLostError, match="1 tunnels"),
            portway.forward(other.port, tunnel_lost=lost.put) as second,
        ):
            eventually(lambda: is_consistent(cluster, tunnel, second))
            cluster.admin.set_quota("less", 1)
            assert lost.get(timeout=PATIENCE).url == second.url
        assert serves(tunnel, cluster.ca)
        eventually(lambda: is_consistent(cluster, tunnel))
