"""A way through a proxy for gRPC: a local socket that leads there, for this process alone."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from portway_runtime import names
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ProxyFailed
from portway_runtime.proxies import parse_proxy
from portway_runtime.proxy_door import open_door
from portway_testkit.links.connect_proxy import ConnectProxy
from portway_testkit.waiting import PATIENCE, eventually

LARGE = os.urandom(3_000_000)


@pytest.fixture(params=["plain", "tls"])
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ConnectProxy]:
    context = None
    if request.param == "tls":
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        file = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(file))
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with ConnectProxy(context) as proxy:
        yield proxy


@pytest.fixture
def greeter() -> Iterator[int]:
    """The port of a server that speaks first, sends back what it gets, and closes."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threads.append(threading.Thread(target=talk, args=(sock,)))
                threads[-1].start()

    def talk(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            sock.sendall(b"first")
            left = len(LARGE)
            while left and (data := sock.recv(65536)):
                sock.sendall(data)
                left -= len(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=serve)]
        threads[0].start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)


def enter(target: str) -> socket.socket:
    """Connect as gRPC does."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(20)
        sock.connect("\0" + target.removeprefix("unix-abstract:"))
    except BaseException:
        sock.close()
        raise
    return sock


def received(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := sock.recv(65536)):
        data += piece
    return data


def test_bytes_pass_both_ways(proxy: ConnectProxy, greeter: int) -> None:
    """Those of a target that speaks first are not lost, and its end arrives."""
    with open_door(parse_proxy(proxy.url, "x"), Endpoint("127.0.0.1", greeter), PATIENCE) as (target, options):
        assert options == (("grpc.ssl_target_name_override", "127.0.0.1"),)
        with enter(target) as sock:
            assert received(sock, 5) == b"first"
            sending = threading.Thread(target=sock.sendall, args=(LARGE,))
            sending.start()
            assert received(sock, len(LARGE)) == LARGE
            sending.join(20)
            assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            enter(target)
    eventually(lambda: proxy.connections == 0)


_KNOCK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(20)
    sock.connect("\\0" + sys.argv[1])
    print(sock.recv(1))
"""


def test_another_process_gets_nothing(proxy: ConnectProxy, greeter: int) -> None:
    """And does not keep this one out."""
    with open_door(parse_proxy(proxy.url, "x"), Endpoint("127.0.0.1", greeter), PATIENCE) as (target, _):
        command = [sys.executable, "-c", _KNOCK, target.removeprefix("unix-abstract:")]
        other = subprocess.run(command, capture_output=True, text=True, timeout=40)
        assert other.stdout == "b''\n", other.stderr
        with enter(target) as sock:
            assert received(sock, 5) == b"first"


def test_a_proxy_that_refuses_is_told_before_anything_is_opened(proxy: ConnectProxy) -> None:
    proxy.answer = b"HTTP/1.1 403 Forbidden\r\n\r\n"
    with pytest.raises(ProxyFailed, match=r"does not let connections to 127\.0\.0\.1:9 through \(403 Forbidden\)"):
        with open_door(parse_proxy(proxy.url, "x"), Endpoint("127.0.0.1", 9), PATIENCE):
            pass
    eventually(lambda: proxy.connections == 0)


def test_a_silent_proxy_is_given_up(proxy: ConnectProxy) -> None:
    proxy.silent = True
    with pytest.raises(ProxyFailed, match=r"which x names, gives no connection: it has not answered within 0\.3 s"):
        with open_door(parse_proxy(proxy.url, "x"), Endpoint("127.0.0.1", 9), 0.3):
            pass


def test_a_proxy_of_the_other_kind_is_told() -> None:
    """http:// in place of https://, and the other way round; and a certificate that nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    for tls, scheme, expected in (
        (None, "https", "is it an http:// proxy"),
        (context, "http", "does not answer as an HTTP proxy does|without an answer"),
        (context, "https", "has a certificate that is not trusted"),
    ):
        with ConnectProxy(tls) as proxy:
            url = f"{scheme}://127.0.0.1:{proxy.port}"
            with pytest.raises(ProxyFailed, match=expected):
                with open_door(parse_proxy(url, "x"), Endpoint("127.0.0.1", 9), PATIENCE):
                    pass


def test_a_proxy_may_have_an_ipv6_address(greeter: int) -> None:
    with ConnectProxy(host="::1") as proxy:
        with (
            open_door(parse_proxy(proxy.url, "x"), Endpoint("127.0.0.1", greeter), PATIENCE) as (target, _),
            enter(target) as sock,
        ):
            assert received(sock, 5) == b"first"


def test_of_the_proxys_addresses_one_that_loses_everything_costs_a_moment(
    greeter: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 8305, as for every other host."""
    with ConnectProxy() as proxy, socket.socket() as loses, socket.socket() as filler:
        loses.bind(("127.0.0.2", proxy.port))
        loses.listen(0)
        filler.connect(loses.getsockname())

        def resolve(host: str, flags: int = 0) -> list[names.Address]:
            if flags:
                raise socket.gaierror
            return [names.Address(socket.AF_INET, address) for address in ("127.0.0.2", "127.0.0.1")]

        monkeypatch.setattr(names, "_addresses", resolve)
        asked = parse_proxy(f"http://proxy.test:{proxy.port}", "x")
        with open_door(asked, Endpoint("127.0.0.1", greeter), PATIENCE) as (target, _), enter(target) as sock:
            assert received(sock, 5) == b"first"
