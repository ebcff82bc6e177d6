"""One of two replicas of the registry, both on one etcd, is gone; and comes back."""

import dataclasses
from collections.abc import Callable, Iterator

import pytest
from portway_registry.server import Registry
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.onlookers import Onlookers, answered, named
from portway_testkit.visitors.recovery import epoch_of, is_consistent
from portway_testkit.waiting import eventually


@dataclasses.dataclass(frozen=True, slots=True)
class Replicated:
    """A mesh whose nodes know two replicas, the cluster's own first."""

    mesh: Cluster
    environment: dict[str, str]


@pytest.fixture
def replicated(make_mesh: Callable[..., Cluster], etcd: EtcdServer) -> Iterator[Replicated]:
    mesh = make_mesh(store=f"etcd:{etcd.url}")
    free = Endpoint(LOOPBACK, 0)
    second = mesh.run(lambda: start(mesh, dataclasses.replace(mesh.registry_config, listen=free, mesh_listen=free)))
    both = tuple(
        Endpoint(LOOPBACK, port)
        for port in (mesh.registry_config.mesh_listen.port, int(second.mesh_address.rpartition(":")[2]))
    )
    for running in mesh.nodes.values():
        running.config = dataclasses.replace(running.config, registry=both)
        running.restart()
    eventually(lambda: connected(mesh))
    addresses = f"{mesh.registry_address},{second.address}"
    yield Replicated(mesh, mesh.environment() | {"PORTWAY_REGISTRY": addresses})
    mesh.run(second.stop)


async def start(mesh: Cluster, config: object) -> Registry:
    registry = Registry(config, on_failure=mesh.failed)  # type: ignore[arg-type]
    await registry.start()
    return registry


def test_nodes_and_clients_go_to_the_other(
    replicated: Replicated, as_client: AsClient, bind: Callable[..., HandTunnel]
) -> None:
    """Nobody is turned away; tunnels open, move, and are announced through the replica that is left."""
    mesh = replicated.mesh
    as_client(replicated.environment)
    other = bind(mesh, "iad-1", "other")
    with named("own") as tunnel:
        eventually(lambda: len(mesh.admin.tunnels()) == 2)
        epoch = epoch_of(mesh.admin, tunnel)
        with Onlookers(mesh, {tunnel.host: "own", other.host: "other"}) as onlookers:
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
