"""The home node of a tunnel is in a black hole: all its packets are dropped, both ways, and every socket stays open."""

from collections.abc import Callable, Iterator

import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.links.cable import Cable
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.own_time import OwnTime
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, answered, home_of, named_at
from portway_testkit.waiting import eventually

HOME = "fra-1"
# Silence is noticed in 10 s; half a second later, as the one node that the client knows is dialled in vain, a registry
# names others (10.4 to 10.7 s in all). The rest is for what else this machine does.
WORST = 12.0


@pytest.fixture
def cable(make_mesh: Callable[..., Cluster]) -> Iterator[Cable]:
    mesh = make_mesh()
    with Cable(mesh, HOME) as cable:
        eventually(lambda: connected(mesh))
        yield cable


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_same_url_serves_elsewhere_and_nobody_is_mixed_up(
    cable: Cable, as_client: AsClient, bind: Callable[..., HandTunnel], own_time: OwnTime
) -> None:
    """The client notices the silence and binds at another node; back from the hole, the old home owns nothing."""
    mesh = cable.cluster
    as_client(mesh.environment())
    left = ("fra-2", "iad-1")
    staying = bind(mesh, "fra-2", "staying")
    with (
        named_at(mesh, HOME, "moving") as tunnel,
        Onlookers(mesh, {tunnel.host: "moving"}) as onlookers,
        Onlookers(mesh, {staying.host: "staying"}, attention=UNHURRIED) as others,
    ):
        eventually(lambda: all(onlookers.answers[at, "moving"] for at in mesh.nodes))
        before = onlookers.unanswered.copy()
        cable.drop()
        dropped = own_time()
        eventually(lambda: all(onlookers.unanswered[at, "moving"] > before[at, "moving"] for at in left))
        eventually(lambda: home_of(mesh, tunnel) in left)
        assert own_time() - dropped < WORST
        for at in left:
            eventually(lambda: answered(mesh, at, tunnel.host) == "moving")
        cable.mend()
        eventually(lambda: mesh.nodes[HOME].metrics()["tunnels"] == 0)
        eventually(lambda: answered(mesh, HOME, tunnel.host) == "moving")
    assert not any(others.unanswered[at, "staying"] for at in left)
