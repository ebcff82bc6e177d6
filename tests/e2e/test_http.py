"""HTTP through a tunnel, as strangers' programs speak it: curl, a browser's WebSocket library, event streams."""

import hashlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import portway
import pytest
from portway_lab.cluster.portway import Cluster
from portway_testkit.processes.ports import free_port
from portway_testkit.visitors.origins import HttpOrigin, TcpOrigin, digest_of, echo, generated, marked
from portway_testkit.visitors.recovery import visit_attentively
from portway_testkit.visitors.visiting import ask, receive, tls_context, visit
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

pytestmark = [
    pytest.mark.usefixtures("client_environment"),
    pytest.mark.shares_sockets,
    pytest.mark.timeout(180),
]

GIB = 1 << 30
# The way of the bytes is the same on either store: once whole, once enough to see that.
SIZES = {"embedded": GIB, "etcd": GIB // 16}
TRICKLE = {"embedded": 60, "etcd": 5}
# An event waits for the processor, which gigabytes want too, and for nothing else.
LATEST = 10.0
CURL_TIMEOUT = 50.0


@pytest.fixture
def store(request: pytest.FixtureRequest) -> str:
    """Which store the cluster is on."""
    callspec = request.node.callspec
    return str(callspec.params["cluster"])


@pytest.fixture
def origin() -> Iterator[HttpOrigin]:
    with HttpOrigin() as origin:
        yield origin


def curl(ca: Path, *arguments: str) -> str:
    """What it prints. Fails the test when curl does."""
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--cacert", str(ca), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=CURL_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@contextmanager
def piped_curl(ca: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """curl with pipes at both ends, which has succeeded when the block is left."""
    command = ["curl", "--silent", "--show-error", "--no-buffer", "--cacert", str(ca), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
            assert process.wait(CURL_TIMEOUT) == 0
        finally:
            process.kill()


def download(ca: Path, url: str) -> str:
    """The digest of what comes."""
    digest = hashlib.sha256()
    with piped_curl(ca, url) as process:
        assert process.stdout is not None
        while piece := process.stdout.read1(1 << 20):  # type: ignore[attr-defined] # a BufferedReader
            digest.update(piece)
    return digest.hexdigest()


def upload(ca: Path, url: str, size: int) -> str:
    """What the server answers to so many bytes."""
    with piped_curl(ca, "--upload-file", "-", url) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for piece in generated(size):
            process.stdin.write(piece)
        process.stdin.close()
        return process.stdout.read().decode()


def test_a_small_page(cluster: Cluster, origin: HttpOrigin) -> None:
    """curl verifies the certificate and prints the page; the server sees the public name as its Host."""
    with portway.forward(origin.port) as tunnel:
        assert curl(cluster.ca, tunnel.url) == "origin\n"
    assert [request.host for request in origin.requests] == [f"{tunnel.host}:{tunnel.port}"]


def test_keep_alive(cluster: Cluster, origin: HttpOrigin) -> None:
    """Several requests travel on one connection, at both ends of the tunnel."""
    with portway.forward(origin.port) as tunnel:
        urls = [f"{tunnel.url}/marked/nonce{number}/20" for number in range(5)]
        answer = curl(cluster.ca, "--write-out", " %{num_connects}\n", *urls)
    assert answer.splitlines() == [
        f"{marked(f'nonce{number}', 20).decode()} {int(number == 0)}" for number in range(len(urls))
    ]
    assert {request.connection for request in origin.requests} == {1}


def test_two_hundred_requests_at_once(cluster: Cluster, origin: HttpOrigin, tmp_path: Path) -> None:
    """Two hundred visitors come at the same moment, and each gets the answer to its own request."""
    with portway.forward(origin.port) as tunnel:
        curl(
            cluster.ca,
            *("--parallel", "--parallel-immediate", "--parallel-max", "200"),
            *("--output", str(tmp_path / "#1"), f"{tunnel.url}/marked/<[1-200]>/5000"),
            "--path-as-is",
        )
    answers = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert answers == {str(number): marked(f"<{number}>", 5000) for number in range(1, 201)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_trickle_beside_gigabytes(cluster: Cluster, store: str, origin: HttpOrigin) -> None:
    """Server-sent events that come for a minute arrive one by one, as they are sent, while a download and an upload
    of a GiB pass through the same tunnel and arrive unchanged."""
    size = SIZES[store]
    late: list[float] = []

    def listen(events: subprocess.Popen[bytes]) -> None:
        assert events.stdout is not None
        for line in events.stdout:
            if line.startswith(b"data: "):
                _, _, sent_at = line.split()
                late.append(time.monotonic() - float(sent_at))

    with (
        portway.forward(origin.port) as tunnel,
        piped_curl(cluster.ca, f"{tunnel.url}/events/{TRICKLE[store]}/1") as events,
    ):
        listener = threading.Thread(target=listen, args=(events,))
        listener.start()
        assert download(cluster.ca, f"{tunnel.url}/bytes/{size}") == digest_of(size)
        assert upload(cluster.ca, f"{tunnel.url}/digest", size) == digest_of(size)
        listener.join()
    assert len(late) == TRICKLE[store]
    assert max(late) < LATEST


def test_a_websocket_with_large_messages(cluster: Cluster) -> None:
    """Messages from one byte to several MiB come back whole, in order, on one connection."""
    messages = [b"".join(generated(size)) for size in (1, 125, 65_536, 1 << 20, 5_000_001, 1)]

    def echo_messages(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo_messages, "127.0.0.1", 0, max_size=None) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            port = server.socket.getsockname()[1]
            with portway.forward(port) as tunnel:
                address = socket.create_connection(("127.0.0.1", tunnel.port))
                with connect(
                    f"wss://{tunnel.host}:{tunnel.port}/",
                    sock=address,
                    ssl=tls_context(cluster.ca),
                    max_size=None,
                ) as connection:
                    for message in messages:
                        connection.send(message)
                        assert connection.recv() == message
        finally:
            server.shutdown()
            serving.join()


def test_nobody_listens_yet(cluster: Cluster) -> None:
    """A visitor that speaks HTTP is told so in a short page; the moment the program listens, the next gets through."""
    port = free_port()
    with portway.forward(port) as tunnel:
        answer = curl(cluster.ca, "--write-out", "%{http_code} %{content_type}", tunnel.url)
        assert "not listening" in answer
        assert answer.endswith("502 text/plain; charset=utf-8")
        with HttpOrigin(port=port):
            assert curl(cluster.ca, tunnel.url) == "origin\n"
        assert "not listening" in curl(cluster.ca, tunnel.url)


def test_listening_on_the_other_loopback_address(cluster: Cluster) -> None:
    """A program that listens on ::1 alone is found, and so is one that moves there."""
    port = free_port()
    with portway.forward(port) as tunnel:
        with HttpOrigin("four", port=port):
            assert curl(cluster.ca, tunnel.url) == "four\n"
        with HttpOrigin("six", host="::1", port=port):
            assert curl(cluster.ca, tunnel.url) == "six\n"


def test_a_silent_visitor_of_nobody_is_closed_in_order(cluster: Cluster) -> None:
    """Who sends nothing, or no HTTP, while nobody listens sees a proper end of TLS and not a byte."""
    with portway.forward(free_port()) as tunnel:
        with visit_attentively(tunnel, cluster.ca) as silent, visit_attentively(tunnel, cluster.ca) as other:
            other.sendall(b"\x00\x01 this is no HTTP")
            assert receive(other) == b""
            assert receive(silent) == b""


def test_a_server_that_speaks_first(cluster: Cluster) -> None:
    """What a server says before its visitor has said anything arrives at once."""

    def greet(sock: socket.socket) -> None:
        sock.sendall(b"220 ready\r\n")
        echo(sock)

    with TcpOrigin(greet) as server, portway.forward(server.port) as tunnel, visit(tunnel, cluster.ca) as visitor:
        assert visitor.recv(100) == b"220 ready\r\n"
        visitor.sendall(b"quit")
        assert visitor.recv(100) == b"quit"


def test_an_answer_without_length_ends_with_its_connection(cluster: Cluster, origin: HttpOrigin) -> None:
    """HTTP/1.0 style answers, whose end is the connection's, are whole."""
    with portway.forward(origin.port) as tunnel:
        answer = ask(tunnel, cluster.ca, "/events/3/0")
    assert answer.count(b"data: ") == 3
