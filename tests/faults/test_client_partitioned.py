"""A client is cut off from every node and from the registry, and comes back."""

from collections.abc import Callable, Iterator

import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.links.client_cable import ClientCable
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, answered, answered_at_last, home_of, named
from portway_testkit.visitors.recovery import epoch_of, is_consistent
from portway_testkit.waiting import eventually


@pytest.fixture
def cable(mesh: Cluster) -> Iterator[ClientCable]:
    with ClientCable(mesh) as cable:
        eventually(lambda: connected(mesh))
        yield cable


def test_it_goes_on_where_it_was(
    mesh: Cluster, cable: ClientCable, as_client: AsClient, bind: Callable[..., HandTunnel]
) -> None:
    """Visitors are turned away meanwhile, at every node; afterwards the same URL works at each, with the same epoch."""
    as_client(cable.environment())
    with named("away") as tunnel:
        home, epoch = home_of(mesh, tunnel), epoch_of(mesh.admin, tunnel)
        with (
            bind(mesh, home, "there") as there,
            Onlookers(mesh, {tunnel.host: "away"}) as onlookers,
            Onlookers(mesh, {there.host: "there"}, attention=UNHURRIED) as others,
        ):
            eventually(lambda: all(onlookers.answers[at, "away"] for at in mesh.nodes))
            cable.cut()
            eventually(lambda: not home_of(mesh, tunnel))
            before = onlookers.unanswered.copy()
            eventually(lambda: all((onlookers.unanswered - before)[at, "away"] >= 2 for at in mesh.nodes))
            assert {answered_at_last(mesh, at, there.host) for at in mesh.nodes} == {"there"}
            # A client that has just been refused there, when all is mended at once, goes to the next node.
            cable.mend(only=home)
            eventually(lambda: home_of(mesh, tunnel))
            cable.mend()
            for at in mesh.nodes:
                eventually(lambda: answered(mesh, at, tunnel.host) == "away")
            assert home_of(mesh, tunnel) == home
        assert not others.unanswered
        eventually(lambda: is_consistent(mesh, tunnel))
        assert epoch_of(mesh.admin, tunnel) == epoch
