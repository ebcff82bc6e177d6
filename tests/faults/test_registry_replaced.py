"""The only registry that nodes were told of is gone for good, after another one has come."""

from collections.abc import Callable

from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.replicas import with_a_replica
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, answered, named
from portway_testkit.waiting import eventually


def test_nodes_go_to_a_registry_that_their_settings_do_not_name(
    make_mesh: Callable[..., Cluster], etcd: EtcdServer, as_client: AsClient, bind: Callable[..., HandTunnel]
) -> None:
    """They were told of it while there were two. Visits go on; new tunnels are served at every node."""
    with with_a_replica(make_mesh(store=f"etcd:{etcd.url}"), says_where=True) as replicas:
        mesh, second = replicas.mesh, replicas.mesh_addresses[1]
        assert all(second not in node.config.registry for node in mesh.nodes.values())
        eventually(lambda: all(second in node.node._registries.known for node in mesh.nodes.values()))
        as_client(replicas.environment())
        before = bind(mesh, "iad-1", "before")
        eventually(lambda: len(mesh.admin.tunnels()) == 1)
        with Onlookers(mesh, {before.host: "before"}, attention=UNHURRIED) as onlookers:
            mesh.stop_registry()
            eventually(lambda: all(node.metrics()["registry_connected"] for node in mesh.nodes.values()))
            with named("new") as tunnel:
                for at in mesh.nodes:
                    eventually(lambda: answered(mesh, at, tunnel.host) == "new")
                eventually(lambda: len(replicas.admin.tunnels()) == 2)
        assert not onlookers.unanswered
