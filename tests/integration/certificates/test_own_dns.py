"""Certificates by the cluster's own DNS: an ACME server asks a node, which answers with what a registry published."""

from pathlib import Path
from typing import Any

from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, Cluster, NodePlan
from portway_testkit.clusters.pebble import Pebble
from portway_testkit.fixtures import AsClient
from portway_testkit.processes.ports import free_port
from portway_testkit.visitors.onlookers import answered, named
from portway_testkit.waiting import eventually


def test_one_machine_obtains_its_certificate(tmp_path: Path, as_client: AsClient) -> None:
    """The node waits for it, and answers the server's questions meanwhile; then it is visited."""
    port = free_port()
    with Pebble(tmp_path / "pebble", dns=port) as pebble:
        node: dict[str, Any] = {
            "tls_cert": (),
            "tls_key": (),
            "dns_listen": (Endpoint(LOOPBACK, port),),
            "public_address": ("192.0.2.1",),
        }
        settings = {
            "acme_directory": pebble.directory,
            "acme_ca": pebble.ca,
            "acme_key_file": tmp_path / "acme.key",
            "domain": DOMAIN,
        }
        plan = NodePlan("fra-1", "fra", settings=node)
        with Cluster(tmp_path, (plan,), settings=settings) as cluster:
            cluster.visitors_ca = tmp_path / "roots.pem"
            cluster.visitors_ca.write_bytes(pebble.roots())
            as_client(cluster.environment())
            with named("own") as tunnel:
                eventually(lambda: answered(cluster, "fra-1", tunnel.host) == "own")
