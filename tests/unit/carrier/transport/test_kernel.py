"""Asking the kernel about a connection that may be gone."""

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
import uvloop
from portway_carrier.python.transport import kernel
from portway_testkit.links.carrier_link import until
from portway_testkit.links.silence import hear_again, silence


def test_a_socket_that_is_closed_already_is_no_error() -> None:
    """Between a transport's end and the news of it its socket has no descriptor: nothing is asked, nothing raised."""

    async def closed() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
            transport.abort()
            await until(lambda: transport.get_extra_info("socket").fileno() < 0)
            kernel.receive_little(transport, 8 * 1024)
            assert not kernel.at_end(transport)
            kernel.reset_on_close(transport)
            assert kernel.tcp_state(transport) is None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(closed())


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_mark_is_the_last_until_something_behind_it_is_acknowledged(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], family: socket.AddressFamily, host: str
) -> None:
    """Whatever is acknowledged of what was sent before."""

    async def send() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server((host, 0), family=family) as listener:
            transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname()[:2])
            peer, _ = listener.accept()
            with peer:
                silence(peer)
                before = kernel.Mark(transport)
                transport.write(b"before")
                mark = kernel.Mark(transport)
                await until(lambda: kernel.undelivered(transport) == 6)
                assert before.is_last
                hear_again(peer)
                await until(lambda: not before.is_last)
                assert mark.is_last
                silence(peer)
                transport.write(b"behind")
                await until(lambda: kernel.undelivered(transport) == 6)
                assert mark.is_last
                hear_again(peer)
                await until(lambda: not mark.is_last)
            transport.abort()
            await until(lambda: transport.get_extra_info("socket").fileno() < 0)
            assert not kernel.Mark(transport).is_last

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(send(), 10))


def test_what_is_acknowledged_while_a_mark_is_made_is_not_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An acknowledgement that comes between two questions to the kernel counts once."""

    async def send() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname()[:2])
            peer, _ = listener.accept()
            with peer:
                silence(peer)
                transport.write(b"before")
                await until(lambda: kernel.undelivered(transport) == 6)
                acknowledged = kernel.bytes_acknowledged

                def after_an_acknowledgement(of: asyncio.BaseTransport) -> int | None:
                    if kernel.undelivered(of):
                        hear_again(peer)
                    while kernel.undelivered(of):
                        time.sleep(0.001)
                    return acknowledged(of)

                with monkeypatch.context() as patched:
                    patched.setattr(kernel, "bytes_acknowledged", after_an_acknowledgement)
                    mark = kernel.Mark(transport)
                assert mark.is_last
                transport.write(b"behind")
                await until(lambda: not mark.is_last)
            transport.abort()

    asyncio.run(asyncio.wait_for(send(), 10))


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_nothing_waits_for_the_processs_default_timeout(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Asking whether a peer has ended that has sent nothing returns at once, and leaves the transport as it was."""

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
            socket.setdefaulttimeout(100)
            assert not kernel.at_end(transport)
            state = kernel.tcp_state(transport)
            assert state is not None
            assert not state.gone
            kernel.receive_little(transport, 8 * 1024)
            transport.abort()
            await until(lambda: transport.get_extra_info("socket").fileno() < 0)

    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(asyncio.wait_for(ask(), 10))
    finally:
        socket.setdefaulttimeout(None)
