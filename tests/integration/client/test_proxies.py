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
from portway_testkit.links.connect_proxy import HOSTS, NODE, REGISTRY, ConnectProxy
from portway_testkit.waiting import PATIENCE, eventually

pytestmark = pytest.mark.shares_sockets

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


@pytest.fixture(params=["", "tls"])
def either_proxy(request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[ConnectProxy]:
    """One that is spoken to over TLS, too, with a certificate of the CA that names["PORTWAY_CA"] has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ConnectProxy(context if request.param else None) as proxy:
        proxy.hosts = dict(HOSTS)
        yield proxy


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
@pytest.mark.parametrize("patch", PATCHES)
def test_both_loops_and_patched_programs(
    names: dict[str, str],
    either_proxy: ConnectProxy,
    node: FakeNode,
    echo: Any,
    exchange: Any,
    start_program: Callable[..., "subprocess.Popen[str]"],
    tmp_path: Path,
    loop: str,
    patch: str,
) -> None:
    """To a proxy that is spoken to over TLS as well, whose CA is the system's."""
    done = tmp_path / "done"
    variables = {"HTTPS_PROXY": either_proxy.url, "SSL_CERT_FILE": names["PORTWAY_CA"]}
    program = start_program(LOOPS[loop] + PATCHES[patch] + _PROGRAM, str(done), str(echo.port), **variables)
    assert program.stdout is not None
    host = program.stdout.readline().strip()
    assert host, program.communicate()[1]
    for _ in range(3):
        assert exchange(node, host, b"x" * 1_000_000) == b"x" * 1_000_000
    done.touch()
    program.communicate(timeout=PATIENCE)
    assert {asked.partition(":")[0] for asked in either_proxy.asked} == {REGISTRY, NODE}
    eventually(lambda: either_proxy.connections == 0)


def test_a_forked_child_has_tunnels_of_its_own_through_it(
    names: dict[str, str],
    either_proxy: ConnectProxy,
    node: FakeNode,
    echo: Any,
    exchange: Any,
    start_program: Callable[..., "subprocess.Popen[str]"],
    tmp_path: Path,
) -> None:
    """And the parent's go on, and end with it."""
    done = tmp_path / "done"
    variables = {"PORTWAY_PROXY": either_proxy.url, "SSL_CERT_FILE": names["PORTWAY_CA"]}
    program = start_program(_FORKS, str(done), str(echo.port), flags=("-W", "ignore"), **variables)
    assert program.stdout is not None
    hosts = [program.stdout.readline().strip() for _ in range(2)]
    for host in hosts:
        assert exchange(node, host, b"x" * 100_000) == b"x" * 100_000
    done.touch()
    assert program.communicate(timeout=PATIENCE) == ("", "")
    eventually(lambda: either_proxy.connections == 0)


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
