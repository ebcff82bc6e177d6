"""Behind a load balancer: from the visitor that it names, through one node or two, to what the local server is told."""

import dataclasses
import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import portway
import pytest
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxy_protocol import Parsed, ProxyHeader, encode_v1, encode_v2, parse, tls_tlvs
from portway_testkit.clusters.cluster import LOOPBACK, Cluster, NodePlan, RunningNode
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.links.balancer import BALANCER, balanced, header_of, pass_on
from portway_testkit.visitors.hellos import real_hello
from portway_testkit.visitors.origins import TcpOrigin
from portway_testkit.visitors.visiting import TIMEOUT, connect_tls, receive, tls_context, visit_raw
from portway_testkit.waiting import eventually

# The nodes of the module keep lanes of their own.
pytestmark = pytest.mark.shares_sockets

VISITORS = [Endpoint("203.0.113.7", 50_000), Endpoint("2001:db8::7", 50_000)]
VISITOR = VISITORS[0]
BALANCERS = (ip_network(BALANCER),)
BEHIND: dict[str, Any] = {"proxy_protocol_from": BALANCERS, "http_listen": Endpoint(LOOPBACK, 0)}
PLANS = (NodePlan("fra-1", "fra", settings=BEHIND), NodePlan("nyc-1", "nyc", settings=BEHIND))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes in two regions, and a registry, all behind the balancer."""
    settings = {"proxy_protocol_from": BALANCERS}
    with Cluster(tmp_path_factory.mktemp("cluster"), PLANS, settings=settings) as cluster:
        eventually(lambda: connected(cluster))
        yield cluster


@contextmanager
def reader_of_headers(told: list[ProxyHeader]) -> Iterator[int]:
    """A local server that reads the header, and sends back what comes after it in capitals; yields its port."""

    def handle(sock: socket.socket) -> None:
        data = b""
        while not isinstance(found := parse(data), Parsed):
            data += sock.recv(1000)
        told.append(found.header)
        data = data[found.length :]
        while data or (data := sock.recv(1000)):
            sock.sendall(data.upper())
            data = b""

    with TcpOrigin(handle) as origin:
        yield origin.port


def say_hello(connection: socket.socket) -> None:
    with connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"HELLO"


def visit_balanced(node: RunningNode, tunnel: portway.Tunnel, ca: Path, header: bytes) -> ssl.SSLSocket:
    return tls_context(ca).wrap_socket(balanced(node.port, header), server_hostname=tunnel.host)


def ended(sock: socket.socket) -> bool:
    """Whether the other end closes it, or resets it, without a byte."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def rejected(node: RunningNode, reason: str) -> float:
    return node.metrics().get(f'turned_away_total{{reason="{reason}"}}', 0.0)


@pytest.mark.parametrize("process", [False, True])
@pytest.mark.parametrize("ingress", ["fra-1", "nyc-1"])
def test_a_visitor_of_a_balancer_is_known_to_the_local_server(
    cluster: Cluster, as_client: AsClient, ingress: str, process: bool
) -> None:
    """Whichever node it enters at, and wherever the engine is: address and port as the balancer says, the port of the
    URL, and its TLS."""
    as_client(cluster.environment())
    told: list[ProxyHeader] = []
    node = cluster.nodes[ingress]
    with (
        reader_of_headers(told) as port,
        portway.forward(port, region="fra", proxy_protocol=True, process=process) as tunnel,
    ):
        tls = tls_tlvs(version="TLSv1.3", server_name=tunnel.host, alpn="")
        for visitor in VISITORS:
            for encode in (encode_v1, encode_v2):
                say_hello(visit_balanced(node, tunnel, cluster.ca, header_of(visitor, encode)))
                none = "::" if ":" in visitor.host else "0.0.0.0"
                assert told.pop() == ProxyHeader(visitor, Endpoint(none, tunnel.port), tls)


def test_a_visitor_that_comes_directly_is_known_as_well(cluster: Cluster, as_client: AsClient) -> None:
    """By the address of its own connection, with the protocol that was agreed on; in version 1 without."""
    as_client(cluster.environment())
    told: list[ProxyHeader] = []
    for version in ("v1", "v2"):
        with reader_of_headers(told) as port, portway.forward(port, proxy_protocol=version) as tunnel:
            node = cluster.node
            connection = connect_tls(tls_context(cluster.ca, "http/1.1"), (LOOPBACK, node.port), tunnel.host)
            source = Endpoint(*connection.getsockname())
            say_hello(connection)
            tls = tls_tlvs(version="TLSv1.3", server_name=tunnel.host, alpn="http/1.1")
            assert told.pop() == ProxyHeader(source, Endpoint("0.0.0.0", tunnel.port), tls if version == "v2" else ())


def test_raw_ports_are_behind_the_balancer_too(
    cluster: Cluster, as_client: AsClient, caplog: pytest.LogCaptureFixture
) -> None:
    """With its header; directly without one. A balancer without, and anybody else with one, are refused and counted."""
    as_client(cluster.environment())
    told: list[ProxyHeader] = []
    with (
        reader_of_headers(told) as port,
        portway.forward(port, unencrypted=True, region="fra", proxy_protocol=True) as tunnel,
    ):
        node, (host, raw) = cluster.nodes["fra-1"], tunnel.tcp_socket
        say_hello(balanced(raw, header_of(VISITOR), host))
        assert told.pop() == ProxyHeader(VISITOR, Endpoint("0.0.0.0", raw))
        direct = visit_raw(tunnel)
        source = Endpoint(*direct.getsockname())
        say_hello(direct)
        assert told.pop() == ProxyHeader(source, Endpoint("0.0.0.0", raw))
        with balanced(raw, b"hello", host) as sock:
            assert ended(sock)
        with visit_raw(tunnel) as sock:
            sock.sendall(header_of(VISITOR) + b"hello")
            assert ended(sock)
        assert (rejected(node, "no_proxy_header"), rejected(node, "proxy_header")) == (1, 1)
        assert told == []
    refused = {one.__dict__["peer"] for one in caplog.records if "are refused" in one.message}
    assert refused == {BALANCER, LOOPBACK}


@pytest.mark.parametrize("header", [b"", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x01\0", b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n"])
def test_a_balancer_s_own_word_is_needed(cluster: Cluster, header: bytes) -> None:
    """At the public port and the plain HTTP port: without a header of a good form there is no handshake and no page."""
    node = cluster.node

    async def plain() -> Endpoint | None:
        return node.node._serving.http_port.listening

    http = cluster.run(plain)
    assert http is not None
    for port, request in ((node.port, b"\x16\x03\x01"), (http.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")):
        with balanced(port, header + request) as sock:
            assert ended(sock)
    with balanced(http.port, header_of(VISITOR) + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") as sock:
        assert receive(sock).startswith(b"HTTP/1.1 400 ")


def test_clients_may_come_through_the_balancer(
    cluster: Cluster, as_client: AsClient, caplog: pytest.LogCaptureFixture
) -> None:
    """All lanes of theirs; the node logs the client's address, not the balancer's."""
    caplog.set_level(logging.INFO, "portway_relay")
    node, client = cluster.nodes["fra-1"], Endpoint("203.0.113.99", 50_000)
    before = node.config
    told: list[ProxyHeader] = []
    with TcpOrigin(lambda sock: pass_on(sock, before.listen.port, client)) as balancer:
        try:
            advertised = Endpoint(LOOPBACK, balancer.port)
            node.config = dataclasses.replace(before, advertise=advertised, public_port=before.listen.port)
            node.restart()
            node.until_shown()
            eventually(lambda: connected(cluster))
            as_client(cluster.environment())
            with reader_of_headers(told) as port, portway.forward(port, region="fra", proxy_protocol=True) as tunnel:
                say_hello(visit_balanced(node, tunnel, cluster.ca, header_of(VISITOR)))
                assert told.pop().source == VISITOR
            attached = [one.__dict__["peer"] for one in caplog.records if one.message == "client attached"]
            assert attached == [client.host]
        finally:
            node.config = before
            node.restart()
            eventually(lambda: connected(cluster))


def test_a_registry_behind_a_balancer(cluster: Cluster) -> None:
    """Whoever comes through it needs a header and is known by it; others come as ever."""
    port = cluster.registry_config.listen.port

    def answers(connection: socket.socket) -> bool:
        with connection:
            try:
                connection.sendall(real_hello("localhost", ["h2"]))
                return connection.recv(1) == b"\x16"  # a handshake's record: ServerHello
            except OSError:
                return False

    def direct(first: bytes = b"") -> socket.socket:
        connection = socket.create_connection((LOOPBACK, port), TIMEOUT)
        connection.sendall(first)
        return connection

    assert answers(balanced(port, header_of(VISITOR)))
    assert answers(balanced(port, header_of(VISITORS[1], encode_v1)))
    assert answers(direct())
    assert not answers(balanced(port, b""))
    assert not answers(direct(header_of(VISITOR)))
