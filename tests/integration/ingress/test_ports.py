"""Every port that a cluster opens, and strangers who send it garbage; ports and connections that are used up."""

import http.client
import random
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack

import portway
import pytest
from portway_proto.wire.limits import LINK_ALPN
from portway_relay.config import NodeLimits, PortRange
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.processes.ports import raw_port_range
from portway_testkit.visitors.origins import HttpOrigin, TcpOrigin, echo
from portway_testkit.visitors.visiting import TIMEOUT, ask, connect_tls, receive, tls_context, visit, visit_raw
from portway_testkit.waiting import eventually

pytestmark = pytest.mark.shares_sockets

MakeCluster = Callable[..., Cluster]
chance = random.Random(4)
GARBAGE = {
    "random bytes": chance.randbytes(5_000),
    "zeros": bytes(5_000),
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
}


def throw(port: int, garbage: bytes, tls: ssl.SSLContext | None = None) -> None:
    """Send it, end, and read until the other side has ended too, in whatever way."""
    address = (LOOPBACK, port)
    try:
        with socket.create_connection(address, TIMEOUT) if tls is None else connect_tls(tls, address, None) as sock:
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            receive(sock)
    except TimeoutError:
        raise
    except OSError:  # a reset, a TLS alert, an end that came before ours
        pass


def trusting() -> ssl.SSLContext:
    """A stranger's TLS, who wants to get in and does not care where."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", LINK_ALPN])
    return context


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_on_every_port(
    make_cluster: MakeCluster, as_client: AsClient, origin: HttpOrigin, garbage: bytes
) -> None:
    """The node's public and admin ports and the registry's two, in clear text and inside TLS: each connection ends,
    and tunnels work, open and are seen as before."""
    cluster = make_cluster(admin_listen=Endpoint(LOOPBACK, 0))
    admin = cluster.node.node.admin_address
    assert admin is not None
    registry = cluster.registry_config
    as_client(cluster.environment())
    with portway.forward(origin.port) as before:
        for port in (cluster.node.port, admin.port, registry.listen.port, registry.mesh_listen.port):
            throw(port, garbage)
            throw(port, garbage, trusting())
        healthy = http.client.HTTPConnection(LOOPBACK, admin.port, timeout=TIMEOUT)
        healthy.request("GET", "/readyz")
        assert healthy.getresponse().read() == b"ready\n"
        healthy.close()
        assert ask(before, cluster.ca).endswith(b"origin\n")
        cluster.token()
        with portway.forward(origin.port, host="localhost") as after:
            assert ask(after, cluster.ca).endswith(b"origin\n")
    eventually(lambda: cluster.node.metrics()["half_open_connections"] == 0)


def test_garbage_on_a_raw_port_is_the_servers_business(cluster: Cluster, as_client: AsClient) -> None:
    """A raw port has no opinion: what comes is what the local server gets, byte for byte."""
    as_client(cluster.environment())
    with TcpOrigin(echo) as server, portway.forward(server.port, unencrypted=True) as tunnel:
        for garbage in GARBAGE.values():
            with visit_raw(tunnel) as visitor:
                visitor.sendall(garbage)
                visitor.shutdown(socket.SHUT_WR)
                assert receive(visitor) == garbage


def test_raw_ports_are_used_up(make_cluster: MakeCluster, as_client: AsClient) -> None:
    """The tunnel too many is refused with what to do; those that are there go on, others open, and a port that was
    let go is given again after its rest."""
    limits = NodeLimits(port_rest=0.5)
    cluster = make_cluster(limits, raw_ports=PortRange(*raw_port_range(2)))
    as_client(cluster.environment())
    with ExitStack() as servers, ExitStack() as stack:
        first, second, third = (servers.enter_context(TcpOrigin(echo)).port for _ in range(3))
        tunnels = [stack.enter_context(portway.forward(port, unencrypted=True)) for port in (first, second)]
        assert len({tunnel.unencrypted_port for tunnel in tunnels}) == 2
        with pytest.raises(portway.RemoteError, match=r"all 2 raw TCP ports .*--raw-ports"):
            with portway.forward(third, unencrypted=True):
                pass
        for tunnel in tunnels:
            with visit_raw(tunnel) as visitor:
                visitor.sendall(b"still there?")
                assert visitor.recv(100) == b"still there?"
        with portway.forward(third) as encrypted, visit(encrypted, cluster.ca) as visitor:
            visitor.sendall(b"hello")
            assert visitor.recv(100) == b"hello"
        stack.close()

        def free() -> bool:
            metrics = cluster.node.metrics()
            return metrics["raw_ports_held"] == metrics["raw_ports_resting"] == 0

        eventually(free)
        with portway.forward(third, unencrypted=True) as tunnel, visit_raw(tunnel) as visitor:
            visitor.sendall(b"hello")
            assert visitor.recv(100) == b"hello"


def test_one_address_connects_too_fast(make_cluster: MakeCluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """Connections of one address above its rate are closed before a byte of theirs is read; other addresses are
    served meanwhile, and so is the hasty one a moment later."""
    cluster = make_cluster(NodeLimits(connections_per_second=2, connection_burst=40))
    hasty, other = "127.0.0.2", "127.0.0.3"
    as_client(cluster.environment())
    with portway.forward(origin.port) as tunnel, ExitStack() as stack:

        def turned_away() -> float:
            return cluster.node.metrics().get('turned_away_total{reason="rate"}', 0)

        def served(source: str) -> bool:
            address = (LOOPBACK, tunnel.port)
            try:
                with connect_tls(tls_context(cluster.ca), address, tunnel.host, source=source) as visitor:
                    visitor.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    return receive(visitor).endswith(b"origin\n")
            except (ConnectionError, ssl.SSLError):
                return False

        for _ in range(40):
            stack.enter_context(socket.create_connection((LOOPBACK, tunnel.port), TIMEOUT, source_address=(hasty, 0)))
        while not turned_away():
            with socket.create_connection((LOOPBACK, tunnel.port), TIMEOUT, source_address=(hasty, 0)) as refused:
                refused.settimeout(0.2)
                try:
                    refused.recv(1)
                except (ConnectionError, TimeoutError):
                    pass
        assert served(other)
        eventually(lambda: served(hasty))
