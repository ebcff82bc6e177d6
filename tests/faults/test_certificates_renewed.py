"""Certificates are renewed while visitors come: no visit fails."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from portway_testkit.clusters.cluster import DOMAIN, Cluster, NodePlan
from portway_testkit.clusters.mesh import connected
from portway_testkit.clusters.pebble import Pebble
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, named
from portway_testkit.visitors.visiting import LOOPBACK, connect_tls, tls_context
from portway_testkit.waiting import eventually

ZONE: Final = f"fra.{DOMAIN}"
NODES: Final = ("fra-1", "fra-2")
_RENEWALS: Final = 4


@pytest.fixture
def pebble(tmp_path: Path) -> Iterator[Pebble]:
    """Its certificates are short-lived: they are renewed by themselves, too."""
    with Pebble(tmp_path / "pebble", validity=60) as pebble:
        yield pebble


@pytest.fixture
def obtaining(tmp_path: Path, pebble: Pebble) -> Iterator[Cluster]:
    """Two nodes without files for their region, whose certificate the registry obtains."""
    settings = {"acme_directory": pebble.directory, "acme_ca": pebble.ca, "domain": DOMAIN}
    plans = tuple(NodePlan(name, "fra", settings={"tls_cert": (), "tls_key": ()}) for name in NODES)
    store = f"embedded:{tmp_path / 'registry.db'}"
    with Cluster(tmp_path, plans, store=store, settings=settings, publisher=pebble.publisher()) as cluster:
        cluster.visitors_ca = tmp_path / "roots.pem"
        cluster.visitors_ca.write_bytes(pebble.roots())
        eventually(lambda: connected(cluster))
        yield cluster


def shown(cluster: Cluster, node: str, host: str) -> int:
    """The serial number of the certificate that a node shows to a visitor of a tunnel."""
    address = (LOOPBACK, cluster.nodes[node].port)
    with connect_tls(tls_context(cluster.visitors_ca), address, host) as connection:
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def test_no_visit_fails_while_certificates_are_renewed(obtaining: Cluster, as_client: AsClient) -> None:
    """At both nodes, each of which shows every new one; the registry is started anew in between."""
    as_client(obtaining.environment())
    with named("own") as tunnel, Onlookers(obtaining, {tunnel.host: "own"}, attention=UNHURRIED) as onlookers:
        eventually(lambda: all(onlookers.answers[at, "own"] for at in NODES))
        onlookers.unanswered.clear()
        for renewal in range(_RENEWALS):
            before = {at: shown(obtaining, at, tunnel.host) for at in NODES}
            obtaining.admin.renew_certificate(ZONE)
            eventually(lambda: all(shown(obtaining, at, tunnel.host) != before[at] for at in NODES))
            if renewal == 1:
                obtaining.stop_registry()
                obtaining.start_registry()
        visits = onlookers.answers.total()
        eventually(lambda: onlookers.answers.total() > visits + 2 * len(NODES))
    assert not onlookers.unanswered, f"of {onlookers.answers.total()} visits"
