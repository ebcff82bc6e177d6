"""Clocks are ten minutes apart: of nodes among each other, and of the registry and everybody else."""

from collections.abc import Callable

import portway
import pytest
from portway_registry import cluster
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.onlookers import Onlookers, answered, answered_raw, home_of, named, named_at
from portway_testkit.waiting import eventually

APART = 600.0
PLANS = (
    NodePlan("fra-1", "fra", clock_ahead=APART),
    NodePlan("fra-2", "fra", clock_ahead=-APART),
    NodePlan("iad-1", "iad"),
)


def test_tunnels_open_move_and_serve(make_mesh: Callable[..., Cluster], as_client: AsClient) -> None:
    """From a node whose clock is ahead to one whose clock is behind, or the other way: nothing is decided by clocks."""
    mesh = make_mesh(*PLANS)
    as_client(mesh.environment())
    with named("own") as tunnel, named("other") as other:
        for _ in range(2):
            home = home_of(mesh, tunnel)
            left = [name for name in mesh.nodes if name != home]
            with Onlookers(mesh, {tunnel.host: "own", other.host: "other"}, left):
                mesh.nodes[home].kill()
                for at in left:
                    for host, name in ((tunnel.host, "own"), (other.host, "other")):
                        eventually(lambda: answered(mesh, at, host) == name)
            mesh.nodes[home].start()
            eventually(lambda: answered(mesh, home, tunnel.host) == "own")


@pytest.mark.parametrize("ahead", [2 * 86_400.0, -2 * 86_400.0])
def test_a_node_whose_clock_is_days_off_stands_in_nobodys_way(
    make_mesh: Callable[..., Cluster], as_client: AsClient, ahead: float
) -> None:
    """It takes no grant, however near it is, and registries send nobody there; new tunnels and those whose home is lost
    are at the others."""
    mesh = make_mesh(NodePlan("fra-1", "fra", clock_ahead=ahead), *PLANS[1:])
    as_client(mesh.environment())
    clocks = {node.name: node.clock_ahead_s for node in mesh.admin.nodes()}
    assert clocks == pytest.approx({"fra-1": ahead, "fra-2": -APART, "iad-1": 0.0}, abs=30)
    with named_at(mesh, "fra-2", "own") as tunnel:
        mesh.nodes["fra-2"].kill()
        eventually(lambda: home_of(mesh, tunnel) == "iad-1")
        for at in ("fra-1", "iad-1"):
            eventually(lambda: answered(mesh, at, tunnel.host) == "own")
        mesh.nodes["fra-2"].start()
    for _ in range(5):
        with named("new") as new:
            assert home_of(mesh, new) != "fra-1"


def test_a_registry_whose_clock_is_ahead_is_good_enough(
    make_mesh: Callable[..., Cluster], as_client: AsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its grants begin ten minutes ahead: nodes allow for that, and a client that comes back by them is welcome."""
    now_ms = cluster.now_ms
    monkeypatch.setattr(cluster, "now_ms", lambda: now_ms() + int(APART * 1000))
    mesh = make_mesh()
    as_client(mesh.environment())
    with named("own") as tunnel:
        for at in mesh.nodes:
            eventually(lambda: answered(mesh, at, tunnel.host) == "own")
        mesh.nodes[home_of(mesh, tunnel)].restart()
        for at in mesh.nodes:
            eventually(lambda: answered(mesh, at, tunnel.host) == "own")


def test_a_raw_port_is_kept_across_clocks(make_mesh: Callable[..., Cluster], as_client: AsClient) -> None:
    """Its ticket was signed by a clock that is twenty minutes off that of the node which reads it."""
    mesh = make_mesh(*PLANS[:2])
    as_client(mesh.environment())
    with named("own", unencrypted=True) as tunnel:
        home = home_of(mesh, tunnel)
        (left,) = (name for name in mesh.nodes if name != home)
        port = tunnel.unencrypted_port
        eventually(lambda: answered_raw(mesh.nodes[left].raw_host, port) == "own")
        mesh.nodes[home].kill()
        eventually(lambda: answered_raw(mesh.nodes[left].raw_host, port) == "own")
        mesh.nodes[home].start()


def test_a_node_that_is_alone_with_a_wrong_clock_is_told_of(
    make_mesh: Callable[..., Cluster], as_client: AsClient
) -> None:
    """Whoever opens a tunnel learns why there is no node, in place of an error about the token."""
    mesh = make_mesh(NodePlan("fra-1", "fra", clock_ahead=7_200.0))
    as_client(mesh.environment())
    with pytest.raises(portway.UnreachableError, match="or with a wrong clock"), portway.forward(8000, timeout=5):
        pass
