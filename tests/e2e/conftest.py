"""A cluster of real processes for programs that no one here wrote, once on each store."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from portway_lab.cluster import chromium
from portway_lab.cluster.portway import Cluster, NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.fixtures import as_client_of
from portway_testkit.processes.running_program import needed

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

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
    with as_client_of(cluster.exports, monkeypatch):
        yield {**os.environ}


@pytest.fixture
def browser(cluster: Cluster, tmp_path: Path) -> Iterator["BrowserContext"]:
    """Chromium with a profile of its own, which takes the region's certificate for a good one."""
    from playwright.sync_api import sync_playwright  # there with the e2e group alone; other tests do without

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=needed("chromium"),
            headless=True,
            args=chromium.arguments(cluster.pki / "region-fra.crt"),
        )
        yield context
        context.close()
