"""Programs that reach registries and nodes through an HTTP proxy. Names below .test exist at the proxy alone."""

import _socket
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import portway
import pytest
import trustme
from portway.engine.engine_thread import running_engine
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.links.connect_proxy import OPEN, ConnectProxy
from portway_testkit.waiting import eventually

pytestmark = pytest.mark.shares_sockets

REGISTRY, NODE = "registry.test", "node.test"
LOOPS = {"uvloop": "", "asyncio": "import sys\nsys.modules['uvloop'] = None\n"}
PATCHES = {
    "": "",
    "gevent": "from gevent import monkey\nmonkey.patch_all()\n",
    "eventlet": "import eventlet\neventlet.monkey_patch()\n",
}

_PROGRAM = """
import pathlib, sys, time
import portway

with portway.forward(int(sys.argv[2])) as tunnel:
    print(tunnel.host, flush=True)
    while not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)
"""


_FORKS = """
import os, pathlib, sys, time
import portway

def hold():
    while not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)

with portway.forward(int(sys.argv[2])) as tunnel:
    print(tunnel.host, flush=True)
    child = os.fork()
    if not child:
        with portway.forward(int(sys.argv[2])) as own:
            print(own.host, flush=True)
            hold()
        os._exit(0)
    hold()
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with ConnectProxy() as proxy:
        proxy.hosts = {REGISTRY: "127.0.0.1", NODE: "127.0.0.1"}
        yield proxy


@pytest.fixture
def names(environment: dict[str, str], registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Registry and nodes have names that nobody but the proxy knows, and no variable names one yet."""
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    registry.node_host = NODE
    environment["PORTWAY_REGISTRY"] = f"{REGISTRY}:{registry.port}"
    monkeypatch.setenv("PORTWAY_REGISTRY", environment["PORTWAY_REGISTRY"])
    return environment


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names below .test that this process has asked a resolver for."""
    asked: list[str] = []
    resolve = _socket.getaddrinfo

    def getaddrinfo(host: str, port: Any, family: int = 0, kind: int = 0, protocol: int = 0, flags: int = 0) -> Any:
        if not flags & socket.AI_NUMERICHOST and host.endswith(".test"):
            asked.append(host)
        return resolve(host, port, family, kind, protocol, flags)

    monkeypatch.setattr(_socket, "getaddrinfo", getaddrinfo)
    return asked


def said(raised: "pytest.ExceptionInfo[portway.Error]") -> str:
    return str(raised.value)


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "PORTWAY_PROXY"])
def test_everything_goes_through_it(
    names: dict[str, str],
    registry: FakeRegistry,
    node: FakeNode,
    proxy: ConnectProxy,
    echo: Any,
    exchange: Any,
    looked_up: list[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    """But what is for the local server. Names are the proxy's to look up."""
    monkeypatch.setenv(variable, proxy.url)
    with portway.forward(echo.port) as tunnel:
        assert exchange(node, tunnel.host, b"hello" * 100_000) == b"hello" * 100_000
    assert set(proxy.asked) == {f"{REGISTRY}:{registry.port}", f"{NODE}:{node.port}"}
    assert looked_up == []


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("tls", ["", "tls"])
@pytest.mark.parametrize("patch", PATCHES)
def test_both_loops_and_patched_programs(
    names: dict[str, str],
    authority: trustme.CA,
    node: FakeNode,
    echo: Any,
    exchange: Any,
    start_program: Callable[..., "subprocess.Popen[str]"],
    tmp_path: Path,
    loop: str,
    tls: str,
    patch: str,
) -> None:
    """To a proxy that is spoken to over TLS as well, whose CA is the system's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    done = tmp_path / "done"
    with ConnectProxy(context if tls else None) as proxy:
        proxy.hosts = {REGISTRY: "127.0.0.1", NODE: "127.0.0.1"}
        variables = {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": names["PORTWAY_CA"]}
        program = start_program(LOOPS[loop] + PATCHES[patch] + _PROGRAM, str(done), str(echo.port), **variables)
        assert program.stdout is not None
        host = program.stdout.readline().strip()
        assert host, program.communicate()[1]
        for _ in range(3):
            assert exchange(node, host, b"x" * 1_000_000) == b"x" * 1_000_000
        done.touch()
        program.communicate(timeout=20)
        assert {asked.partition(":")[0] for asked in proxy.asked} == {REGISTRY, NODE}
        eventually(lambda: proxy.connections == 0)


@pytest.mark.parametrize("tls", ["", "tls"])
def test_a_forked_child_has_tunnels_of_its_own_through_it(
    names: dict[str, str],
    authority: trustme.CA,
    node: FakeNode,
    echo: Any,
    exchange: Any,
    start_program: Callable[..., "subprocess.Popen[str]"],
    tmp_path: Path,
    tls: str,
) -> None:
    """And the parent's go on, and end with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    done = tmp_path / "done"
    with ConnectProxy(context if tls else None) as proxy:
        proxy.hosts = {REGISTRY: "127.0.0.1", NODE: "127.0.0.1"}
        variables = {"PORTWAY_PROXY": proxy.url, "SSL_CERT_FILE": names["PORTWAY_CA"]}
        program = start_program(_FORKS, str(done), str(echo.port), flags=("-W", "ignore"), **variables)
        assert program.stdout is not None
        hosts = [program.stdout.readline().strip() for _ in range(2)]
        for host in hosts:
            assert exchange(node, host, b"x" * 100_000) == b"x" * 100_000
        done.touch()
        assert program.communicate(timeout=20) == ("", "")
        eventually(lambda: proxy.connections == 0)


@pytest.mark.parametrize(
    ("exempt", "through"),
    [(REGISTRY, {NODE}), (".node.test", {REGISTRY}), ("127.0.0.1, example.com", {REGISTRY, NODE}), ("*", set())],
)
def test_what_is_exempt_is_reached_directly(
    names: dict[str, str],
    registry: FakeRegistry,
    proxy: ConnectProxy,
    echo: Any,
    monkeypatch: pytest.MonkeyPatch,
    exempt: str,
    through: set[str],
) -> None:
    resolve = _socket.getaddrinfo

    def getaddrinfo(host: str, port: Any, family: int = 0, kind: int = 0, protocol: int = 0, flags: int = 0) -> Any:
        known = host.endswith(".test") and not flags & socket.AI_NUMERICHOST
        return resolve("127.0.0.1" if known else host, port, family, kind, protocol, flags)

    monkeypatch.setattr(_socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setenv("https_proxy", proxy.url)
    monkeypatch.setenv("NO_PROXY", exempt)
    with portway.forward(echo.port):
        assert {asked.partition(":")[0] for asked in proxy.asked} == through


def test_this_machine_is_no_exception(
    environment: dict[str, str], proxy: ConnectProxy, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for curl; `no_proxy` makes it one, and so does "direct". gRPC has no rule of its own."""
    with ConnectProxy() as other:
        monkeypatch.setenv("https_proxy", proxy.url)
        with portway.forward(echo.port):
            assert len(set(proxy.asked)) == 2
        for name in ("https_proxy", "http_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, other.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with portway.forward(echo.port):
            pass
        monkeypatch.delenv("no_proxy")
        monkeypatch.setenv("PORTWAY_PROXY", "direct")
        with portway.forward(echo.port):
            pass
        monkeypatch.setenv("PORTWAY_PROXY", other.url)
        for none in ("", "direct"):
            with portway.forward(echo.port, proxy=none):
                pass
        assert other.asked == []


def test_variables_are_read_when_a_tunnel_is_opened(
    names: dict[str, str], proxy: ConnectProxy, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And never again for it. Another tunnel that is opened with other ones has a session of its own."""
    monkeypatch.setenv("https_proxy", proxy.url)
    with portway.forward(echo.port), ConnectProxy() as other:
        other.hosts = proxy.hosts
        monkeypatch.setenv("https_proxy", other.url)
        before = len(proxy.asked)
        with portway.forward(echo.port + 1 if echo.port < 65_535 else 1):
            assert {asked.partition(":")[0] for asked in other.asked} == {REGISTRY, NODE}
        assert REGISTRY not in {asked.partition(":")[0] for asked in proxy.asked[before:]}


def test_a_login_is_sent_and_never_shown(
    names: dict[str, str], proxy: ConnectProxy, echo: Any, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the URL's, percent-decoded."""
    proxy.login = "me@home:s:e cret"
    url = proxy.url.replace("http://", "http://me%40home:s%3Ae%20cret@")
    with portway.forward(echo.port, proxy=url) as tunnel:
        assert "cret" not in repr(tunnel)
    proxy.login = "another:one"
    with pytest.raises(portway.UnreachableError, match=r"does not accept the user and password.*\(407\)") as raised:
        with portway.forward(echo.port, proxy=url, region="other"):
            pass
    assert "cret" not in said(raised) + str(log.lines)


ANSWERS = {
    "wants a login": (b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n", "wants a login (407): write it into"),
    "forbids": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever", "does not let connections to"),
    "cannot": (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "cannot reach"),
    "garbage": (b"\x00\xff" * 5_000, "does not answer as an HTTP proxy does"),
    "endless": (b"HTTP/1.1 200 OK\r\n" + b"X-More: of it\r\n" * 100_000, "sends a header of more than 16 KiB"),
    "nothing": (b"", "closes the connection without an answer"),
    "half": (b"HTTP/1.1 200 O", "does not"),
}


@pytest.mark.parametrize("what", [name for name in ANSWERS if name != "half"])
@pytest.mark.parametrize("of", [REGISTRY, NODE])
def test_a_proxy_that_refuses_is_named(
    names: dict[str, str], registry: FakeRegistry, node: FakeNode, proxy: ConnectProxy, what: str, of: str
) -> None:
    """With what to do, for the registry and for a node."""
    answer, expected = ANSWERS[what]
    proxy.answers[f"{of}:{registry.port if of == REGISTRY else node.port}"] = answer
    with pytest.raises(portway.UnreachableError) as raised:
        with portway.forward(8000, proxy=proxy.url, timeout=2):
            pass
    assert f"the proxy 127.0.0.1:{proxy.port}, which proxy= (--proxy) names, {expected}" in said(raised)


def test_a_proxy_that_says_nothing_is_given_up(names: dict[str, str], proxy: ConnectProxy) -> None:
    proxy.silent = True
    with pytest.raises(portway.UnreachableError) as raised:
        with portway.forward(8000, proxy=proxy.url, timeout=5):
            pass
    assert f"the proxy 127.0.0.1:{proxy.port}" in said(raised)
    assert "it has not answered within 3 s" in said(raised)


def test_a_proxy_that_says_nothing_of_a_node_is_given_up(names: dict[str, str], proxy: ConnectProxy) -> None:
    proxy.silent_for = NODE
    with pytest.raises(portway.UnreachableError) as raised:
        with portway.forward(8000, proxy=proxy.url, timeout=5):
            pass
    assert f"no connection within 3 s, through the proxy 127.0.0.1:{proxy.port}" in said(raised)


def test_a_short_time_limit_names_it_too(names: dict[str, str], proxy: ConnectProxy) -> None:
    proxy.silent = True
    with pytest.raises(
        portway.UnreachableError, match=rf"no tunnel within 0\.5 s, through the proxy 127.*{proxy.port}"
    ):
        with portway.forward(8000, proxy=proxy.url, timeout=0.5):
            pass


def test_a_proxy_that_is_not_there_is_told(names: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(portway.UnreachableError, match=rf"127.0.0.1:{port}, which proxy= .* cannot be reached \(Conn"):
        with portway.forward(8000, proxy=f"http://127.0.0.1:{port}", timeout=2):
            pass
    with pytest.raises(portway.UnreachableError, match="has a name that cannot be resolved"):
        with portway.forward(8000, proxy="http://proxy.invalid:3128", timeout=5):
            pass


@pytest.mark.parametrize("url", ["socks5://proxy.test:1080", "http://u:p/w@proxy.test:1", "ftp://proxy.test"])
def test_a_url_that_cannot_be_used_is_a_setting(
    names: dict[str, str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", url)
    with pytest.raises(portway.ConfigError, match=r"^ALL_PROXY "), portway.forward(8000):
        pass


def test_what_follows_the_answer_in_one_piece_is_read(
    names: dict[str, str], node: FakeNode, proxy: ConnectProxy
) -> None:
    """An alert, which OpenSSL explains."""
    proxy.answers[f"{NODE}:{node.port}"] = OPEN + bytes((21, 3, 3, 0, 2, 2, 40))
    with pytest.raises(portway.UnreachableError, match=r"HANDSHAKE_FAILURE, through the proxy 127\.0\.0\.1"):
        with portway.forward(8000, proxy=proxy.url, timeout=2):
            pass


def test_a_proxy_that_dies_is_named_and_comes_back(
    names: dict[str, str], node: FakeNode, proxy: ConnectProxy, echo: Any, exchange: Any
) -> None:
    """The tunnel is lost with it, and is back under the same URL."""
    with portway.forward(echo.port, proxy=proxy.url) as tunnel:
        proxy.stop()

        def named() -> bool:
            return f"the proxy 127.0.0.1:{proxy.port}" in running_engine().status().trouble

        eventually(named)
        with proxy:
            eventually(lambda: running_engine().status().attached)
            assert exchange(node, tunnel.host, b"again") == b"again"


def test_another_node_is_found_through_it(
    names: dict[str, str],
    registry: FakeRegistry,
    node: FakeNode,
    second_node: FakeNode,
    proxy: ConnectProxy,
    echo: Any,
    exchange: Any,
) -> None:
    registry.nodes.append(second_node)
    with portway.forward(echo.port, proxy=proxy.url, unencrypted=True) as tunnel:
        first, other = (node, second_node) if node.sessions else (second_node, node)
        first.stop()
        label = tunnel.host.partition(".")[0]
        eventually(lambda: label in other.tunnels)
        assert exchange(other, tunnel.host, b"there") == b"there"
        assert f"{NODE}:{other.port}" in proxy.asked


def netcheck(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "portway", "netcheck", *arguments],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_netcheck_measures_what_is_behind_it(names: dict[str, str], node: FakeNode, proxy: ConnectProxy) -> None:
    """The way to the node and back, not that to the proxy, which is 1 ms away. The password is not shown."""
    proxy.delay = 0.1
    done = netcheck("--json", "--proxy", proxy.url.replace("http://", "http://me:secret@"))
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr
    (region,) = json.loads(done.stdout)["regions"]
    (found,) = region["nodes"]
    assert found["proxy"] == f"127.0.0.1:{proxy.port}"
    assert found["rtt_ms"] >= 200
    shown = netcheck("--proxy", proxy.url).stdout
    assert f"proxy     127.0.0.1:{proxy.port}, which proxy= (--proxy) names, to 1 of 1 nodes" in shown


def test_no_bound_is_reported_of_a_dial_that_lost(
    names: dict[str, str],
    registry: FakeRegistry,
    node: FakeNode,
    second_node: FakeNode,
    proxy: ConnectProxy,
    echo: Any,
) -> None:
    """Nobody knows how much of the wait was the proxy's. What was measured is reported, as ever."""
    node.silent = True
    registry.nodes.append(second_node)
    with portway.forward(echo.port, proxy=proxy.url):
        eventually(lambda: bool(registry.reports))
    told = [trip.node for report in registry.reports for trip in report.round_trips]
    assert told == ["two"]
