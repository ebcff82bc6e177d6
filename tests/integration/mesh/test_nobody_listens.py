"""A tunnel whose local server does not listen: who speaks HTTP is told so, at any node, over TLS and on a raw port."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import portway
import pytest
from portway_relay.config import NodeLimits
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import as_client_of
from portway_testkit.processes.ports import free_port
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.visiting import TIMEOUT, connect_tls, receive, tls_context
from portway_testkit.waiting import eventually

# Seconds that first bytes are waited for: longer than any visitor of a test waits, and soon over.
LONG, SHORT = 2 * TIMEOUT, 1.0
NODES = ("fra-1", "fra-2")
METHODS = [b"GET", b"HEAD", b"PROPFIND", b"REPORT", b"QUERY", b"PURGE"]

Dial = Callable[[str], socket.socket]  # to a node


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes of one region, whose public ports listen for IPv4 and IPv6, and which wait so long for first bytes."""
    settings = {"listen": Endpoint("", 0), "advertise": Endpoint("127.0.0.1", 0)}
    limits = NodeLimits(first_bytes_time=request.param, stop_grace=0.5)
    with Cluster(tmp_path, tuple(NodePlan(name, "fra", limits, settings) for name in NODES)) as cluster:
        eventually(lambda: connected(cluster))
        with as_client_of(cluster.environment(), monkeypatch):
            yield cluster


def dials(cluster: Cluster, tunnel: portway.Tunnel) -> dict[str, Dial]:
    """The ways to the tunnel, by name."""
    context = tls_context(cluster.ca, "http/1.1")

    def tls(host: str) -> Dial:
        return lambda node: connect_tls(context, (host, cluster.nodes[node].port), tunnel.host)

    def raw(node: str) -> socket.socket:
        eventually(lambda: listens(cluster.nodes[node].raw_host, tunnel.unencrypted_port))
        return socket.create_connection((cluster.nodes[node].raw_host, tunnel.unencrypted_port), TIMEOUT)

    return {"IPv4": tls("127.0.0.1"), "IPv6": tls("::1"), "raw": raw}


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), TIMEOUT).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("cluster", [LONG], indirect=True)
def test_http_gets_a_page_and_who_speaks_something_else_no_byte(cluster: Cluster) -> None:
    """Whatever the method, and at once. The moment that the server listens it is reached."""
    port = free_port()
    with portway.forward(port, unencrypted=True) as tunnel:
        for name, dial in dials(cluster, tunnel).items():
            for node in NODES:
                for method in METHODS:
                    with dial(node) as visitor:
                        visitor.sendall(method + b" /x HTTP/1.1\r\nHost: a\r\n\r\n")
                        answer = receive(visitor)
                    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n"), (name, node, method)
                    assert answer.endswith(b"\r\n\r\n") is (method == b"HEAD"), (name, node, method)
                with dial(node) as visitor:
                    visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for piece in (b"PRO", b"PFIND ", b"/", b" HTTP", b"/1.1\r\n"):
                        visitor.sendall(piece)
                    assert receive(visitor).startswith(b"HTTP/1.1 502 "), (name, node)
                with dial(node) as visitor:
                    visitor.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
                    assert receive(visitor) == b"", (name, node)
        with HttpOrigin(port=port):
            for dial in dials(cluster, tunnel).values():
                for node in NODES:
                    with dial(node) as visitor:
                        visitor.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                        assert receive(visitor).endswith(b"origin\n")


@pytest.mark.parametrize("cluster", [SHORT], indirect=True)
def test_who_is_silent_gets_no_byte(cluster: Cluster) -> None:
    """It is closed on in order, once first bytes were waited for."""
    with portway.forward(free_port(), unencrypted=True) as tunnel:
        for name, dial in dials(cluster, tunnel).items():
            for node in NODES:
                began = time.monotonic()
                with dial(node) as visitor:
                    assert receive(visitor) == b"", (name, node)
                    assert SHORT * 0.9 < time.monotonic() - began < SHORT + 15, (name, node)
