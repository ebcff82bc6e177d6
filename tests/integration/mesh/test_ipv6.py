"""Everything over IPv6: registry, node, client, visitors, raw ports."""

import socket
from collections.abc import Callable
from typing import Any

import portway
import pytest
from portway_proto.v1.types_pb2 import REACH_REACHED
from portway_relay.visits import Visits
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.fixtures import AsClient
from portway_testkit.processes.ports import free_port
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import is_consistent
from portway_testkit.visitors.visiting import TIMEOUT, connect_tls, receive, tls_context
from portway_testkit.waiting import eventually

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")


@pytest.fixture
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """A registry and a node that know no other address than ::1."""
    settings = {"listen": Endpoint("::1", 0), "raw_listen": "::1", "raw_host": "::1"}
    return start_cluster(
        NodePlan("fra-1", "fra", settings=settings), listen=Endpoint("::1", 0), mesh_listen=Endpoint("::1", 0)
    )


def test_a_tunnel_works_over_ipv6_alone(cluster: Cluster, as_client: AsClient) -> None:
    """From Locate to the local server, which listens on ::1 too; the client is told an address that it can dial."""
    as_client(cluster.environment())
    with HttpOrigin(host="::1") as origin, portway.forward(origin.port, unencrypted=True) as tunnel:
        with connect_tls(tls_context(cluster.ca, "http/1.1"), ("::1", tunnel.port), tunnel.host) as visitor:
            visitor.sendall(REQUEST)
            assert receive(visitor).endswith(b"origin\n")
        assert tunnel.tcp_socket[0] == "::1"
        with socket.create_connection(tunnel.tcp_socket, TIMEOUT) as visitor:
            visitor.sendall(REQUEST)
            assert receive(visitor).endswith(b"origin\n")
        eventually(lambda: is_consistent(cluster, tunnel))
        assert cluster.admin.nodes()[0].host == "::1"


def test_what_a_node_answers_itself_works_over_ipv6(cluster: Cluster, as_client: AsClient) -> None:
    """The redirect to https at the TLS port, and the page of a raw port whose local server does not listen."""
    as_client(cluster.environment())
    with portway.forward(free_port(), unencrypted=True) as tunnel:
        with socket.create_connection(("::1", tunnel.port), TIMEOUT) as visitor:
            visitor.sendall(f"PROPFIND /x HTTP/1.1\r\nHost: {tunnel.host}.\r\n\r\n".encode())
            assert f"\r\nLocation: {tunnel.url}/x\r\n".encode() in receive(visitor)
        with socket.create_connection(tunnel.tcp_socket, TIMEOUT) as visitor:
            visitor.sendall(b"PROPFIND /x HTTP/1.1\r\n\r\n")
            assert receive(visitor).startswith(b"HTTP/1.1 502 ")


def test_a_node_on_every_address_serves_both_families(start_cluster: Callable[..., Cluster]) -> None:
    """The empty host is dual-stack, on one port."""
    settings = {"listen": Endpoint("", 0), "advertise": Endpoint("localhost", 0), "raw_listen": ""}
    cluster = start_cluster(NodePlan("fra-1", "fra", settings=settings))
    eventually(lambda: [node.reach for node in cluster.admin.nodes()] == [REACH_REACHED])  # its address was tried
    before = cluster.node.metrics()["connections_total"]
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, cluster.node.port), TIMEOUT).close()
    eventually(lambda: cluster.node.metrics()["connections_total"] == before + 2)


def test_a_visitors_address_is_told_in_its_own_family(
    start_cluster: Callable[..., Cluster], as_client: AsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An IPv4 visitor of a dual-stack port is an IPv4 visitor: nobody sees ::ffff: addresses."""
    told: list[str] = []
    start_tls = Visits.start_tls

    def start_and_tell(self: Visits, sock: socket.socket, peer: Endpoint, *arguments: Any) -> None:
        told.append(peer.host)
        start_tls(self, sock, peer, *arguments)

    monkeypatch.setattr(Visits, "start_tls", start_and_tell)
    settings = {"listen": Endpoint("", 0), "advertise": Endpoint("localhost", 0)}
    cluster = start_cluster(NodePlan("fra-1", "fra", settings=settings))
    as_client(cluster.environment())
    with HttpOrigin() as origin, portway.forward(origin.port) as tunnel:
        for host in ("127.0.0.1", "::1"):
            with connect_tls(tls_context(cluster.ca, "http/1.1"), (host, tunnel.port), tunnel.host) as visitor:
                visitor.sendall(REQUEST)
                assert receive(visitor).endswith(b"origin\n")
    assert told == ["127.0.0.1", "::1"]
