"""Certificates with a life of seconds: nodes renew them by themselves, and nobody notices."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import portway
import pytest
from cryptography import x509
from portway_relay.errors import JoinError
from portway_relay.membership.joining import ensure_certificate
from portway_testkit.clusters.cluster import Cluster, RunningNode
from portway_testkit.clusters.joining import Joiner
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.mesh_visitors import get
from portway_testkit.visitors.origins import HttpOrigin, TcpOrigin, echo
from portway_testkit.visitors.visiting import visit
from portway_testkit.waiting import eventually

# Seconds. Renewed at half of it; the other half bears a pause of the machine.
LIFE = 10


@pytest.fixture
def joiner(start: Callable[..., Joiner], store: str) -> Joiner:
    return start(store, node_certificate_seconds=LIFE)


def certificate_of(node: RunningNode) -> x509.Certificate:
    return x509.load_pem_x509_certificate(node.config.cert.read_bytes())


def lanes_of(joiner: Joiner) -> set[int]:
    """Every mesh lane that is up, told apart from any that comes later."""

    async def found() -> set[int]:
        return {id(lane) for node in joiner.cluster.nodes.values() for lane in node.node._serving.inbound_lanes}

    return joiner.cluster.run(found)


def test_nodes_outlive_their_first_certificates(joiner: Joiner, as_client: AsClient, origin: HttpOrigin) -> None:
    """Sessions, visits and mesh lanes of before are the same ones after; new handshakes show the new certificate."""
    one, two = joiner.join("fra-1"), joiner.join("fra-2")
    eventually(lambda: connected(joiner.cluster))
    first = {node.config.name: certificate_of(node) for node in (one, two)}
    as_client(joiner.cluster.environment())
    with (
        TcpOrigin(echo) as echoing,
        portway.forward(echoing.port) as tunnel,
        visit(tunnel, joiner.cluster.ca) as visitor,
    ):
        visitor.sendall(b"before")
        assert visitor.recv(100) == b"before"
        kept = lanes_of(joiner)
        over = max(certificate.not_valid_after_utc for certificate in first.values())
        eventually(lambda: datetime.now(UTC) > over + timedelta(seconds=1))
        for node in (one, two):
            assert certificate_of(node).serial_number != first[node.config.name].serial_number
        assert kept <= lanes_of(joiner)
        visitor.sendall(b"after")
        assert visitor.recv(100) == b"after"
        sessions = sum(node.metrics()["sessions"] for node in (one, two))
        assert sessions == 1
    # A client that comes now sees certificates that are good now, and both nodes still trust each other.
    with portway.forward(origin.port) as tunnel:
        for node in (one, two):
            eventually(lambda: reached(node, tunnel, joiner.cluster))


def reached(node: RunningNode, tunnel: portway.Tunnel, cluster: Cluster) -> bool:
    try:
        return bool(get(node, tunnel, cluster.ca))
    except OSError:
        return False


def test_a_registry_that_was_away_is_asked_again(joiner: Joiner, caplog: pytest.LogCaptureFixture) -> None:
    """What failed is logged once, and tried again until it is done."""
    node = joiner.join("fra-1")
    first = certificate_of(node)
    joiner.cluster.stop_registry()
    with caplog.at_level(logging.WARNING, "portway_relay.membership.renewal"):
        eventually(lambda: "certificate not renewed" in caplog.text)
    if joiner.cluster.registry_config.store == "embedded:memory":
        return  # its CA is gone with it
    joiner.cluster.start_registry()
    eventually(lambda: certificate_of(node).not_valid_after_utc > first.not_valid_after_utc)


def test_an_expired_node_is_told_to_be_invited(joiner: Joiner) -> None:
    """A node that was off for too long does not start, and its operator reads what to do."""
    node = joiner.join("fra-1")
    node.stop()
    over = certificate_of(node).not_valid_after_utc
    eventually(lambda: datetime.now(UTC) > over)

    async def start_again() -> None:
        await ensure_certificate(node.config)

    with pytest.raises(JoinError, match="has expired") as raised:
        joiner.cluster.run(start_again)
    assert "portway-admin node invite --region fra --name fra-1" in str(raised.value)
    again = joiner.config("fra-1", token=joiner.invite(node="fra-1"))
    joiner.enter(again)
    joiner.run(again)
