"""What comes first at the public port: hellos in pieces, huge, unfinished; no TLS at all."""

import socket
import ssl
import struct
from contextlib import ExitStack

import portway
import pytest
from portway_relay.ingress.client_hello import MAX_HELLO
from portway_relay.ingress.decision import Alert
from portway_testkit.clusters.cluster import LOOPBACK, Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors import hellos
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.visiting import TIMEOUT, receive, tls_context
from portway_testkit.waiting import eventually

pytestmark = pytest.mark.shares_sockets

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
REQUEST = b"GET / HTTP/1.1\r\nHost: somebody\r\nConnection: close\r\n\r\n"


def connect(cluster: Cluster) -> socket.socket:
    sock = socket.create_connection((LOOPBACK, cluster.node.port), TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def end_of(sock: socket.socket) -> bytes:
    """What still comes until the node has dropped the connection, in whatever way."""
    received = b""
    try:
        while piece := sock.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def speak_tls(sock: socket.socket, context: ssl.SSLContext, host: str, piece: int) -> bytes:
    """A whole visit whose every flight leaves in packets of `piece` bytes: the answer to REQUEST."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=host)

    def send() -> None:
        flight = outgoing.read()
        for at in range(0, len(flight), piece):
            sock.sendall(flight[at : at + piece])

    while True:
        try:
            connection.do_handshake()
            break
        except ssl.SSLWantReadError:
            send()
            incoming.write(sock.recv(65_536))
    connection.write(REQUEST)
    send()
    answer = b""
    while True:
        try:
            received = connection.read()
            if not received:
                return answer
            answer += received
        except ssl.SSLWantReadError:
            incoming.write(sock.recv(65_536))


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_a_hello_in_many_packets(cluster: Cluster, tunnel: portway.Tunnel, piece: int) -> None:
    """A hello that comes byte by byte is waited for, and the visit is like any other."""
    with connect(cluster) as visitor:
        answer = speak_tls(visitor, tls_context(cluster.ca), tunnel.host, piece)
    assert answer.endswith(b"origin\n")


def test_a_hello_longer_than_one_record(cluster: Cluster, tunnel: portway.Tunnel) -> None:
    """A hello longer than one TLS record, in packets of any size, is understood."""
    context = tls_context(cluster.ca, *(f"{number:0255d}" for number in range(63)), "http/1.1")
    for piece in (1_400, 65_536):
        with connect(cluster) as visitor:
            assert speak_tls(visitor, context, tunnel.host, piece).endswith(b"origin\n")


def test_a_hello_over_the_limit(cluster: Cluster, tunnel: portway.Tunnel) -> None:
    """A hello that announces more than MAX_HELLO is refused at its first bytes, without waiting for the rest."""
    hello = hellos.records(hellos.message_of(MAX_HELLO + 1, hellos.server_name(tunnel.host.encode())))
    with connect(cluster) as visitor:
        visitor.sendall(hello[:100])
        assert receive(visitor) == Alert.DECODE_ERROR.record


def test_a_hello_that_is_never_finished(hasty: Cluster) -> None:
    """Whoever has not said a whole hello within the limit is dropped without a word, wherever it stopped."""
    hello = hellos.real_hello("abcdefghijklmnop.fra.localhost")
    with ExitStack() as stack:
        visitors = [stack.enter_context(connect(hasty)) for _ in range(4)]
        for visitor, size in zip(visitors, (0, 3, 60, len(hello) - 1), strict=True):
            visitor.sendall(hello[:size])
        eventually(lambda: hasty.node.metrics()["half_open_connections"] == len(visitors))
        for visitor in visitors:
            assert end_of(visitor) == b""


def test_a_handshake_that_is_never_finished(hasty: Cluster, as_client: AsClient, origin: HttpOrigin) -> None:
    """After its hello a visitor has the time of a handshake, and then is dropped."""
    as_client(hasty.environment())
    with portway.forward(origin.port) as tunnel, connect(hasty) as visitor:
        visitor.sendall(hellos.real_hello(tunnel.host))
        assert end_of(visitor)[:1] == b"\x16", "a ServerHello, and then the end"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE", "PROPFIND"])
@pytest.mark.parametrize("target", ["/x?y=%20", "http://abc.fra.localhost/x?y=%20"])
def test_plain_http(cluster: Cluster, method: str, target: str) -> None:
    """Who forgot the s of https is sent to the same path with it, and the connection ends in order."""
    with connect(cluster) as visitor:
        visitor.sendall(f"{method} {target} HTTP/1.1\r\nHost: abc.fra.localhost\r\n\r\n".encode())
        head, _, body = receive(visitor).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 308 ")
    assert f"\r\nLocation: https://abc.fra.localhost:{cluster.node.port}/x?y=%20\r\n".encode() in head
    assert body == b""


@pytest.mark.parametrize(
    "host", ["abc.example.org", "abc.nyc.localhost", "localhost", "x@abc.fra.localhost", "127.0.0.1"]
)
def test_plain_http_for_another_host(cluster: Cluster, host: str) -> None:
    """There is no redirect to what this node does not serve: a short page says what to do."""
    with connect(cluster) as visitor:
        visitor.sendall(f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = receive(visitor)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"use https://" in answer
    assert b"Location" not in answer
    assert len(answer) < 1_000


def test_plain_http_byte_by_byte(cluster: Cluster) -> None:
    """A request that comes in single bytes is known for what it is, and waited for until its Host is there."""
    with connect(cluster) as visitor:
        for byte in b"PROPFIND /x HTTP/1.1\r\nHost: abc.fra.localhost\r\n":
            visitor.sendall(bytes([byte]))
        assert b"\r\nLocation: https://abc.fra.localhost" in receive(visitor)


def test_a_large_request_in_clear_text(cluster: Cluster) -> None:
    """Somebody who posts a megabyte in clear text reads the answer all the same."""
    request = b"POST / HTTP/1.1\r\nHost: abc.fra.localhost\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    with connect(cluster) as visitor:
        visitor.sendall(request)
        assert receive(visitor).startswith(b"HTTP/1.1 308 ")


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 100, b"\xff" * 5, b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01\x00\x00", b"\x16\x02\x00", b"GET / FTP"],
)
def test_no_tls(cluster: Cluster, garbage: bytes) -> None:
    """What can become neither a hello nor a request is answered with an alert at once, and ended."""
    with connect(cluster) as visitor:
        visitor.sendall(garbage)
        assert receive(visitor) == Alert.DECODE_ERROR.record


def test_an_end_before_anything_was_said(cluster: Cluster, tunnel: portway.Tunnel) -> None:
    """Visitors that leave before, or in the middle of, their first bytes leave nothing behind."""
    for sent in (b"", b"\x16", hellos.real_hello(tunnel.host)[:50], b"GE"):
        with connect(cluster) as visitor:
            visitor.sendall(sent)
            visitor.shutdown(socket.SHUT_WR)
            assert end_of(visitor) == b""


def test_a_reset_right_behind_the_first_bytes(cluster: Cluster, tunnel: portway.Tunnel) -> None:
    """Visitors that send part of a hello and are gone before it was looked at are not waited for."""
    hello = hellos.real_hello(tunnel.host)
    for size in [1, 3, 5, 100, len(hello) - 1] * 40:
        with connect(cluster) as visitor:
            visitor.sendall(hello[:size])
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    eventually(lambda: cluster.node.metrics()["half_open_connections"] == 0)
