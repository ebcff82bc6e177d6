"""A stream's last bytes are written completely, whenever it is finished."""

import asyncio
import socket
import ssl
from collections.abc import Callable

import pytest
import trustme
from portway_carrier.contract import Carrier
from portway_carrier.values import ServerTls
from portway_testkit.links.carrier_link import listener


async def _accepted(listening: socket.socket) -> socket.socket:
    connection, _ = await asyncio.get_running_loop().sock_accept(listening)
    return connection


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_stream_may_be_finished_before_it_is_up(
    make_carrier: Callable[..., Carrier], server_tls: ServerTls, authority: trustme.CA, encrypted: bool
) -> None:
    """The bytes given to finish() right after accept() reach the peer, and then the end."""
    carrier = make_carrier()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with listener() as listening:
        dialling = asyncio.ensure_future(
            asyncio.open_connection(
                "127.0.0.1",
                listening.getsockname()[1],
                ssl=trusting if encrypted else None,
                server_hostname="node.test" if encrypted else None,
            )
        )
        carrier.finish(carrier.accept(await _accepted(listening), server_tls if encrypted else None), b"last words")
        reader, writer = await dialling
        assert await reader.read() == b"last words"
        writer.close()
        await writer.wait_closed()
