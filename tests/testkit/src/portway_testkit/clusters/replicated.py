"""A mesh with two replicas of the registry, both in the test process on one etcd."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

from portway_registry.server import Registry
from portway_runtime.endpoints import Endpoint

from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.clusters.mesh import connected
from portway_testkit.waiting import eventually


@dataclasses.dataclass(frozen=True, slots=True)
class Replicated:
    """A mesh whose nodes know two replicas, the cluster's own first."""

    mesh: Cluster
    second: Registry
    environment: dict[str, str]


@contextmanager
def replicated_mesh(mesh: Cluster) -> Iterator[Replicated]:
    """Start a second replica beside the cluster's own, and tell it to the nodes."""
    free = Endpoint(LOOPBACK, 0)
    config = dataclasses.replace(mesh.registry_config, listen=free, mesh_listen=free)
    second = Registry(config, on_failure=mesh.failed)
    mesh.run(second.start)
    both = tuple(
        Endpoint(LOOPBACK, port)
        for port in (mesh.registry_config.mesh_listen.port, int(second.mesh_address.rpartition(":")[2]))
    )
    for running in mesh.nodes.values():
        running.config = dataclasses.replace(running.config, registry=both)
        running.restart()
    eventually(lambda: connected(mesh))
    addresses = f"{mesh.registry_address},{second.address}"
    try:
        yield Replicated(mesh, second, mesh.environment() | {"PORTWAY_REGISTRY": addresses})
    finally:
        mesh.run(second.stop)
