"""A cluster of real processes for programs that no one here wrote, once on each store."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.portway import Cluster, NodePlan, RegistryPlan, start_cluster
from cluster.processes import Processes
from portway.engine import thread
from portway_testkit.etcd import EtcdServer

FRANKFURT = NodePlan("fra-1", "fra", 50.1, 8.7)


@pytest.fixture(scope="module", params=["embedded", "etcd"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A registry and one node."""
    # A short path: sockets are made below it.
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        if request.param == "embedded":
            yield start_cluster(processes, (FRANKFURT,))
            return
        with EtcdServer() as etcd:
            yield start_cluster(processes, (FRANKFURT,), RegistryPlan(store=f"etcd:{etcd.url}"))


@pytest.fixture
def client_environment(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What leads a client to the cluster: set for this process, and whole for others. The engine is stopped after."""
    for name, value in cluster.exports.items():
        monkeypatch.setenv(name, value)
    yield {**os.environ}
    thread.stop_engine()
