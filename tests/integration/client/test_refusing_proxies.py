"""What is said of an HTTP proxy that refuses, says nothing or is not there, and of a URL that names none."""

import socket
from typing import Any

import portway
import pytest
from portway_runtime import names as resolving
from portway_runtime.names import Address
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.links.connect_proxy import NODE, OPEN, REGISTRY, ConnectProxy
from portway_testkit.processes.ports import free_port
from portway_testkit.waiting import PATIENCE

pytestmark = pytest.mark.shares_sockets


def said(raised: "pytest.ExceptionInfo[portway.Error]") -> str:
    return str(raised.value)


def test_a_login_is_sent_and_never_shown(
    names: dict[str, str], proxy: ConnectProxy, echo: Any, log: Any, time_is_up_at: Any
) -> None:
    """It is the URL's, percent-decoded."""
    proxy.login = "me@home:s:e cret"
    url = proxy.url.replace("http://", "http://me%40home:s%3Ae%20cret@")
    with portway.forward(echo.port, proxy=url) as tunnel:
        assert "cret" not in repr(tunnel)
    proxy.login = "another:one"
    time_is_up_at("does not accept the user and password")
    with pytest.raises(portway.UnreachableError, match=r"does not accept the user and password.*\(407\)") as raised:
        with portway.forward(echo.port, proxy=url, region="other", timeout=PATIENCE):
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
    names: dict[str, str],
    registry: FakeRegistry,
    node: FakeNode,
    proxy: ConnectProxy,
    what: str,
    of: str,
    time_is_up_at: Any,
) -> None:
    """With what to do, for the registry and for a node."""
    answer, expected = ANSWERS[what]
    time_is_up_at(expected)
    proxy.answers[f"{of}:{registry.port if of == REGISTRY else node.port}"] = answer
    with pytest.raises(portway.UnreachableError) as raised:
        with portway.forward(8000, proxy=proxy.url, timeout=PATIENCE):
            pass
    assert f"the proxy 127.0.0.1:{proxy.port}, which proxy= (--proxy) names, {expected}" in said(raised)


def test_a_proxy_that_says_nothing_is_given_up(names: dict[str, str], proxy: ConnectProxy, time_is_up_at: Any) -> None:
    proxy.silent = True
    time_is_up_at("it has not answered within 3 s")
    with pytest.raises(portway.UnreachableError) as raised:
        with portway.forward(8000, proxy=proxy.url, timeout=PATIENCE):
            pass
    assert f"the proxy 127.0.0.1:{proxy.port}" in said(raised)
    assert "it has not answered within 3 s" in said(raised)


def test_a_proxy_that_says_nothing_of_a_node_is_given_up(
    names: dict[str, str], proxy: ConnectProxy, time_is_up_at: Any
) -> None:
    proxy.silent_for = NODE
    time_is_up_at("no connection within 3 s")
    with pytest.raises(portway.UnreachableError) as raised:
        with portway.forward(8000, proxy=proxy.url, timeout=PATIENCE):
            pass
    assert f"no connection within 3 s, through the proxy 127.0.0.1:{proxy.port}" in said(raised)


def test_a_short_time_limit_names_it_too(names: dict[str, str], proxy: ConnectProxy) -> None:
    proxy.silent = True
    with pytest.raises(
        portway.UnreachableError, match=rf"no tunnel within 0\.5 s, through the proxy 127.*{proxy.port}"
    ):
        with portway.forward(8000, proxy=proxy.url, timeout=0.5):
            pass


def test_a_proxy_that_is_not_there_is_told(
    names: dict[str, str], time_is_up_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = resolving._addresses

    def resolve(host: str, flags: int = 0) -> list[Address]:
        """As with a resolver that is there: without one, the look-up takes longer than is waited for it."""
        if host == "proxy.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, flags)

    monkeypatch.setattr(resolving, "_addresses", resolve)
    port = free_port()
    time_is_up_at("cannot be reached (Conn")
    with pytest.raises(portway.UnreachableError, match=rf"127.0.0.1:{port}, which proxy= .* cannot be reached \(Conn"):
        with portway.forward(8000, proxy=f"http://127.0.0.1:{port}", timeout=PATIENCE):
            pass
    time_is_up_at("has a name that cannot be resolved")
    with pytest.raises(portway.UnreachableError, match="has a name that cannot be resolved"):
        with portway.forward(8000, proxy="http://proxy.invalid:3128", timeout=PATIENCE):
            pass


@pytest.mark.parametrize("url", ["socks5://proxy.test:1080", "http://u:p/w@proxy.test:1", "ftp://proxy.test"])
def test_a_url_that_cannot_be_used_is_a_setting(
    names: dict[str, str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", url)
    with pytest.raises(portway.ConfigError, match=r"^ALL_PROXY "), portway.forward(8000):
        pass


def test_what_follows_the_answer_in_one_piece_is_read(
    names: dict[str, str], node: FakeNode, proxy: ConnectProxy, time_is_up_at: Any
) -> None:
    """An alert, which OpenSSL explains."""
    time_is_up_at("HANDSHAKE_FAILURE")
    proxy.answers[f"{NODE}:{node.port}"] = OPEN + bytes((21, 3, 3, 0, 2, 2, 40))
    with pytest.raises(portway.UnreachableError, match=r"HANDSHAKE_FAILURE, through the proxy 127\.0\.0\.1"):
        with portway.forward(8000, proxy=proxy.url, timeout=PATIENCE):
            pass
