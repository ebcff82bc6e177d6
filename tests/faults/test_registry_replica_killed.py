"""One of two replicas of the registry, both on one etcd, is gone; and comes back."""

from collections.abc import Callable

from portway_testkit.clusters.replicas import Replicas
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, answered, named
from portway_testkit.visitors.recovery import epoch_of, is_consistent
from portway_testkit.waiting import eventually


def test_nodes_and_clients_go_to_the_other(
    replicated: Replicas, as_client: AsClient, bind: Callable[..., HandTunnel]
) -> None:
    """Nobody is turned away; tunnels open, move, and are announced through the replica that is left."""
    mesh = replicated.mesh
    as_client(replicated.environment())
    other = bind(mesh, "iad-1", "other")
    with named("own") as tunnel:
        eventually(lambda: len(mesh.admin.tunnels()) == 2)
        epoch = epoch_of(mesh.admin, tunnel)
        with Onlookers(mesh, {tunnel.host: "own", other.host: "other"}, attention=UNHURRIED) as onlookers:
            mesh.stop_registry()
            eventually(lambda: all(node.metrics()["registry_connected"] for node in mesh.nodes.values()))
            with named("second") as second:
                for at in mesh.nodes:
                    eventually(lambda: answered(mesh, at, second.host) == "second")
                mesh.start_registry()
                # The first replica hears of what was told to the second.
                eventually(lambda: len(mesh.admin.tunnels()) == 3)
            eventually(lambda: len(mesh.admin.tunnels()) == 2)
            assert epoch_of(mesh.admin, tunnel) == epoch
        assert not onlookers.unanswered
        other.leave()
        eventually(lambda: is_consistent(mesh, tunnel))
