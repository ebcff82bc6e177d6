"""A cluster of real processes for programs that no one here wrote, once on each store."""

import base64
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from portway.engine import engine_thread as thread
from portway_lab.cluster.portway import Cluster, NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_testkit.clusters.etcd import EtcdServer
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
    for name, value in cluster.exports.items():
        monkeypatch.setenv(name, value)
    yield {**os.environ}
    thread.stop_engine()


@pytest.fixture
def browser(cluster: Cluster, tmp_path: Path) -> Iterator["BrowserContext"]:
    """Chromium with a profile of its own, which takes the region's certificate for a good one."""
    from playwright.sync_api import sync_playwright  # there with the e2e group alone; other tests do without

    certificate = x509.load_pem_x509_certificate((cluster.pki / "region-fra.crt").read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    trusted = base64.b64encode(hashlib.sha256(key).digest()).decode()
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=needed("chromium"),
            headless=True,
            args=[f"--ignore-certificate-errors-spki-list={trusted}", "--no-sandbox", "--disable-gpu", *quiet],
        )
        yield context
        context.close()
