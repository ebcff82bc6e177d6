"""http:// in place of https://: a browser or curl arrives all the same, at the TLS port and at the plain one."""

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import portway
import pytest
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.visiting import TIMEOUT, receive
from portway_testkit.waiting import eventually

curl_is_there = pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")


class _Framework(BaseHTTPRequestHandler):
    """A framework behind TLS that it does not know of: /items is redirected to http://HOST/items/, where it says what
    it was asked."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, query, rest = self.path.partition("?")
        if path == "/items":
            self.send_response(307)
            self.send_header("Location", f"http://{self.headers['Host']}/items/{query}{rest}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        answer = json.dumps([self.command, self.path, body.decode()]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PROPFIND = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def framework() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Framework)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield server.server_port
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture
def redirecting(make_cluster: Callable[..., Cluster]) -> Cluster:
    """A node that also listens for plain HTTP, on every address."""
    return make_cluster(listen=Endpoint("", 0), advertise=Endpoint("localhost", 0), http_listen=Endpoint("", 0))


def http_port(cluster: Cluster) -> int:
    address = cluster.node.node.http_address
    assert address is not None
    return address.port


def curl(cluster: Cluster, *arguments: str) -> str:
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--cacert", str(cluster.ca), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@curl_is_there
@pytest.mark.parametrize(("method", "body"), [("GET", ""), ("POST", "x=1"), ("PROPFIND", "")])
def test_a_framework_that_redirects_to_http_is_followed(
    redirecting: Cluster, as_client: AsClient, framework: int, method: str, body: str
) -> None:
    """With the same path, query, method and body; http:// at the TLS port, and at the plain port."""
    as_client(redirecting.environment())
    data = ["--data", body] if body else []
    with portway.forward(framework) as tunnel:
        for url in (
            f"https://{tunnel.host}:{tunnel.port}/items?a=%2F",
            f"http://{tunnel.host}:{tunnel.port}/items?a=%2F",
            f"http://{tunnel.host}:{http_port(redirecting)}/items?a=%2F",
        ):
            answer = curl(redirecting, "--location", "--request", method, *data, url)
            assert json.loads(answer) == [method, "/items/?a=%2F", body]


@curl_is_there
def test_the_host_may_be_fully_qualified_and_in_capitals(redirecting: Cluster) -> None:
    """The redirect leads to the name as certificates have it."""
    for host in ("abc.fra.localhost.", "ABC.Fra.LocalHost"):
        for port in (redirecting.node.port, http_port(redirecting)):
            shown = curl(
                redirecting,
                *("--output", "/dev/null", "--write-out", "%{http_code} %{redirect_url}", "--header", f"Host: {host}"),
                f"http://127.0.0.1:{port}/x",
            )
            assert shown == f"308 https://abc.fra.localhost:{redirecting.node.port}/x"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_plain_port_only_redirects(redirecting: Cluster, host: str) -> None:
    """To names of this node alone, over IPv4 and IPv6; whatever is not HTTP gets nothing. All of it is counted."""
    before = redirecting.node.metrics()
    answers = []
    for sent in (
        b"GET /x HTTP/1.1\r\nHost: abc.fra.localhost\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"SSH-2.0-x\r\n",
    ):
        with socket.create_connection((host, http_port(redirecting)), TIMEOUT) as visitor:
            visitor.sendall(sent)
            try:
                answers.append(receive(visitor))
            except ConnectionResetError:
                answers.append(b"")
    redirected, told, closed = answers
    assert f"\r\nLocation: https://abc.fra.localhost:{redirecting.node.port}/x\r\n".encode() in redirected
    assert told.startswith(b"HTTP/1.1 400 ")
    assert b"Location" not in told
    assert closed == b""

    def counted(name: str) -> float:
        return redirecting.node.metrics().get(name, 0) - before.get(name, 0)

    for reason in ("redirected", "plain_http", "not_http"):
        eventually(lambda: counted(f'turned_away_total{{reason="{reason}"}}') == 1)
    assert counted("connections_total") == 3


def test_the_plain_port_closes_with_the_node(redirecting: Cluster) -> None:
    """Nothing listens any more once it has stopped."""
    port = http_port(redirecting)
    redirecting.node.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), TIMEOUT)
