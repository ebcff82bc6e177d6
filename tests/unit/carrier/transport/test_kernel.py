"""Asking the kernel about a connection that may be gone."""

import asyncio
import socket

import uvloop
from portway_carrier.python.transport import kernel
from portway_testkit.links.carrier_link import until


def test_a_socket_that_is_closed_already_is_no_error() -> None:
    """Between a transport's end and the news of it its socket has no descriptor: nothing is asked, nothing raised."""

    async def closed() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
            transport.abort()
            await until(lambda: transport.get_extra_info("socket").fileno() < 0)
            kernel.keep_transport_alive(transport)
            assert not kernel.at_end(transport)
            kernel.reset_on_close(transport)
            assert kernel.tcp_state(transport) is None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(closed())
