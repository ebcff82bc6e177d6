"""forward() under trio, anyio and event loop policies of others, against a node and a registry that do as they are
told."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import portway
import pytest
import trio
from portway_testkit.fakes.fake_node import FakeNode

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment", "each_engine")]

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["trio", "anyio on trio", "anyio on asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    runs: dict[str, Run] = {
        "trio": trio.run,
        "anyio on trio": lambda main: anyio.run(main, backend="trio"),
        "anyio on asyncio": lambda main: anyio.run(main, backend="asyncio"),
    }
    return runs[request.param]


def test_async_with_opens_and_closes_a_tunnel(run: Run, node: FakeNode, echo: Any, exchange: Any) -> None:
    """Visitors reach the port while the loop goes on."""

    async def main() -> None:
        async with portway.forward(echo.port) as tunnel:
            assert await anyio.to_thread.run_sync(exchange, node, tunnel.host, b"hello") == b"hello"
        node.wait(lambda: not node.tunnels)

    run(main)


def test_plain_with_does_too(run: Run, node: FakeNode, echo: Any) -> None:
    """It blocks the loop for the moment that opening takes."""

    async def main() -> None:
        with portway.forward(echo.port) as tunnel:
            assert tunnel.url
            await anyio.lowlevel.checkpoint()
        node.wait(lambda: not node.tunnels)

    run(main)


def test_a_decorated_function_is_given_its_tunnel(run: Run, node: FakeNode, echo: Any) -> None:
    """It stays an async function."""
    urls: list[str] = []

    @portway.forward(echo.port)
    async def serve(tunnel: portway.Tunnel) -> None:
        urls.append(tunnel.url)

    run(serve)  # type: ignore[arg-type]
    assert urls
    node.wait(lambda: not node.tunnels)


def test_an_error_comes_out_as_it_is(run: Run) -> None:
    """That of an argument, and that of the engine."""

    async def main() -> None:
        with pytest.raises(portway.InvalidError, match="is not a port"):
            async with portway.forward(0):
                pass
        async with portway.forward(8000):
            with pytest.raises(portway.InvalidError, match="is forwarded already"):
                async with portway.forward(8000):
                    pass

    run(main)


def test_a_cancelled_block_leaves_no_tunnel(run: Run, node: FakeNode) -> None:
    """Cancelled while it is opened, and while it is open."""

    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with portway.forward(8000):
                await anyio.sleep(30)
        with anyio.CancelScope() as scope:
            async with portway.forward(8001):
                scope.cancel()
                await anyio.sleep(30)
        assert scope.cancelled_caught
        async with portway.forward(8000), portway.forward(8001):
            pass  # neither port is forwarded any more
        node.wait(lambda: not node.tunnels)

    run(main)


def test_a_loop_of_a_graphical_toolkit(node: FakeNode, echo: Any, exchange: Any) -> None:
    """A policy whose loops are for the main thread alone, in its `async with` and beside it."""

    class Policy(asyncio.DefaultEventLoopPolicy):
        made = 0

        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            self.made += 1
            if self.made > 1:
                raise RuntimeError("there is one loop")
            return super().new_event_loop()

    async def main() -> None:
        async with portway.forward(echo.port) as tunnel:
            assert await asyncio.to_thread(exchange, node, tunnel.host, b"hello") == b"hello"

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(Policy())
    try:
        asyncio.run(main())
    finally:
        asyncio.set_event_loop_policy(before)
    node.wait(lambda: not node.tunnels)
