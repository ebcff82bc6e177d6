"""forward() against a node and a registry that do as they are told."""

import asyncio
import inspect
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import portway
import pytest
from portway_proto.wire.labels import is_label
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment", "each_engine")]


def test_a_visitor_reaches_the_port(node: FakeNode, echo: Any, exchange: Any) -> None:
    """Inside the block, bytes of a visitor reach the local server and come back; after it, the label is gone."""
    with portway.forward(echo.port) as tunnel:
        label, _, rest = tunnel.host.partition(".")
        assert is_label(label)
        assert rest == "test.localhost"
        assert tunnel.url == f"https://{tunnel.host}:{node.port}"
        assert exchange(node, tunnel.host, b"hello") == b"hello"
        assert exchange(node, tunnel.host, b"x" * 3_000_000) == b"x" * 3_000_000
    node.wait(lambda: not node.tunnels)


async def test_async_with_does_the_same(node: FakeNode, echo: Any, exchange: Any) -> None:
    """`async with forward()` and `forward.aio()` open and close a tunnel without blocking the caller's loop."""
    async with portway.forward(echo.port) as tunnel:
        assert await asyncio.to_thread(exchange, node, tunnel.host, b"hello") == b"hello"
    async with portway.forward.aio(echo.port) as again:
        assert again.host != tunnel.host
    node.wait(lambda: not node.tunnels)


def test_a_decorated_function_is_given_its_tunnel(node: FakeNode, echo: Any) -> None:
    """Each call has a tunnel of its own, passed as `tunnel`, which callers do not see in the signature."""

    @portway.forward(echo.port)
    def serve(prefix: str, *, tunnel: portway.Tunnel) -> str:
        """Its docstring stays."""
        return prefix + tunnel.url

    assert serve.__doc__ == "Its docstring stays."
    assert list(inspect.signature(serve).parameters) == ["prefix"]
    first, second = serve(">"), serve(">")  # type: ignore[call-arg]
    assert re.match(r">https://", first)
    assert first != second
    node.wait(lambda: not node.tunnels)


async def test_a_decorated_coroutine_function_is_given_its_tunnel(node: FakeNode, echo: Any) -> None:
    """An async function stays one, and needs not ask for the tunnel."""

    @portway.forward(echo.port)
    async def serve() -> int:
        return len(node.tunnels)

    assert inspect.iscoroutinefunction(serve)
    assert await serve() == 1
    node.wait(lambda: not node.tunnels)


def test_an_exception_in_the_block_closes_the_tunnel(node: FakeNode, echo: Any) -> None:
    """The program's own exception comes out unchanged and the tunnel is gone."""
    with pytest.raises(ZeroDivisionError), portway.forward(echo.port):
        raise ZeroDivisionError
    node.wait(lambda: not node.tunnels)


def test_the_second_tunnel_is_one_bind(node: FakeNode, registry: FakeRegistry, echo: Any) -> None:
    """A process has one session: another port asks the registry nothing and says no second HELLO."""
    with portway.forward(echo.port) as first, portway.forward(1) as second:
        assert first.host != second.host
        assert (registry.locates, node.count("hello"), node.count("bind")) == (1, 1, 2)


def test_a_session_outlives_its_last_tunnel(node: FakeNode, registry: FakeRegistry, echo: Any) -> None:
    """Closing the last tunnel and opening the next one uses the same session."""
    for _ in range(3):
        with portway.forward(echo.port):
            pass
    assert (registry.locates, node.count("hello"), node.count("bind")) == (1, 1, 3)


def test_a_second_tunnel_for_a_port_is_an_error(node: FakeNode, echo: Any) -> None:
    """The port is free again when the first tunnel is closed; the same port of another host is another place."""
    with portway.forward(echo.port):
        with pytest.raises(portway.InvalidError, match="forwarded already"), portway.forward(echo.port):
            pass
        with portway.forward(echo.port, host="localhost"):
            assert len(node.tunnels) == 2
    with portway.forward(echo.port):
        pass


def test_an_object_cannot_be_entered_twice_at_once(echo: Any) -> None:
    """It can be used again after it was left."""
    forwarding = portway.forward(echo.port)
    with forwarding as first:
        with pytest.raises(portway.InvalidError, match="open already"):
            forwarding.__enter__()
    with forwarding as second:
        assert first != second


def test_fifty_tunnels_share_a_session(node: FakeNode, echo: Any) -> None:
    """Fifty ports opened from ten threads are bound over one control lane, and all are gone afterwards."""
    forwardings = [portway.forward(port) for port in range(30_000, 30_050)]
    with ThreadPoolExecutor(10) as pool:
        tunnels = list(pool.map(lambda forwarding: forwarding.__enter__(), forwardings))
        assert len({tunnel.host for tunnel in tunnels}) == 50
        assert (len(node.tunnels), node.count("hello")) == (50, 1)
        list(pool.map(lambda forwarding: forwarding.__exit__(None, None, None), forwardings))
    node.wait(lambda: not node.tunnels)


def test_unencrypted_gives_a_tcp_socket(echo: Any) -> None:
    """With `unencrypted` there is a TCP address beside the https one."""
    with portway.forward(echo.port, unencrypted=True) as tunnel:
        assert tunnel.tcp_socket == ("127.0.0.1", 20001)
        assert tunnel.tls_socket == (tunnel.host, tunnel.port)


def test_a_host_may_be_named(node: FakeNode, echo: Any, exchange: Any) -> None:
    """`host` is dialled instead of this machine's loopback."""
    with portway.forward(echo.port, host="localhost") as tunnel:
        assert exchange(node, tunnel.host, b"hello") == b"hello"
