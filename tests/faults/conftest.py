"""A cluster, a client of it in this process, and a local server: what each fault is done to."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from portway_lab.cluster.portway import NodePlan as ProcessPlan
from portway_lab.cluster.portway import start_cluster
from portway_lab.cluster.processes import Processes, Restartable
from portway_relay.config import NodeLimits
from portway_testkit.clusters.admin_calls import AdminCalls
from portway_testkit.clusters.cluster import FRANKFURT, Cluster, NodePlan
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.mesh import connected
from portway_testkit.clusters.replicas import Replicas, with_a_replica
from portway_testkit.links.hand_tunnel import Bind, binding
from portway_testkit.processes.running_program import RunningProgram
from portway_testkit.waiting import eventually

LIMITS = NodeLimits(first_bytes_time=0.3, leave_grace=1.0, stop_grace=1.0)
MESH = tuple(NodePlan(name, name.partition("-")[0], LIMITS) for name in ("fra-1", "fra-2", "iad-1"))


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts a cluster inside the test process; what its registry knows is kept on disk."""
    with ExitStack() as stack:

        def make(*plans: NodePlan, store: str = f"embedded:{tmp_path / 'registry.db'}", **settings: Any) -> Cluster:
            return stack.enter_context(Cluster(tmp_path, plans or (FRANKFURT,), store=store, settings=settings))

        yield make


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster()


@pytest.fixture
def make_mesh(make_cluster: Callable[..., Cluster]) -> Callable[..., Cluster]:
    """Starts three nodes in two regions that have heard from each other; `settings` are the registry's."""

    def make(*plans: NodePlan, **settings: Any) -> Cluster:
        cluster = make_cluster(*(plans or MESH), **settings)
        eventually(lambda: connected(cluster))
        return cluster

    return make


@pytest.fixture
def mesh(make_mesh: Callable[..., Cluster]) -> Cluster:
    return make_mesh()


@pytest.fixture
def replicated(make_mesh: Callable[..., Cluster], etcd: EtcdServer) -> Iterator[Replicas]:
    with with_a_replica(make_mesh(store=f"etcd:{etcd.url}")) as replicas:
        replicas.link(*replicas.mesh.nodes, to=replicas.mesh_addresses)
        yield replicas


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Makes tunnels by hand, at nodes of the test's choice; what is left of them is closed after the test."""
    with binding() as bind:
        yield bind


@pytest.fixture
def short_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grants are renewed after half a second, and shown with presences ten times a second."""
    monkeypatch.setattr("portway_registry.access.grants._LIFE_MS", 1_000)
    monkeypatch.setattr("portway_registry.access.grants.RENEW_AFTER_MS", 500)
    monkeypatch.setattr("portway.engine.grpc_registries.SHORTEST_LIFE", 0.0)
    monkeypatch.setattr("portway.engine.presences.PRESENCE_INTERVAL", 0.1)
    monkeypatch.setattr("portway.engine.presences.LOOK_EVERY", 0.1)


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as etcd:
        yield etcd


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[[str], RunningProgram]]:
    """Runs a Python program, given as text, that is a client of the cluster; what still runs is killed at the end."""
    environment = {**os.environ, **cluster.environment(), "PYTHONUNBUFFERED": "1"}
    with ExitStack() as stack:

        def run(program: str) -> RunningProgram:
            command = [sys.executable, "-W", "error", "-c", program]
            return stack.enter_context(RunningProgram(command, environment, tmp_path / "program.log"))

        yield run


@dataclass(frozen=True, slots=True)
class ProcessCluster:
    """A registry, with its store on disk, and one node, as processes of their own."""

    registry: Restartable
    node: Restartable
    environment: dict[str, str]  # what a client needs
    ca: Path
    admin: AdminCalls


@pytest.fixture
def process_cluster() -> Iterator[ProcessCluster]:
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        cluster = start_cluster(processes, (ProcessPlan("fra-1", "fra", 50.1, 8.7),))
        yield ProcessCluster(
            Restartable(processes, cluster.registry_process),
            Restartable(processes, cluster.nodes[0].process),
            cluster.exports,
            cluster.ca,
            AdminCalls(cluster.registry, cluster.ca, cluster.admin_token_file.read_text().strip()),
        )
