"""A stream's last bytes are written completely, whenever it is finished."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

import pytest
import trustme
from portway_carrier.contract import Carrier
from portway_carrier.values import ServerTls
from portway_testkit.links.carrier_link import listener, reset, until


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


async def test_connections_that_wait_for_their_peers_can_be_dropped(
    make_carrier: Callable[..., Carrier], server_tls: ServerTls, authority: trustme.CA
) -> None:
    """One whose last bytes its peer does not read is, and one that is not over is not."""
    carrier = make_carrier()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    last_words = bytes(32 * 1024 * 1024)  # more than the kernel keeps for a connection
    with listener() as listening:
        dialling = asyncio.ensure_future(
            asyncio.open_connection("127.0.0.1", listening.getsockname()[1], ssl=trusting, server_hostname="node.test")
        )
        over = carrier.accept(await _accepted(listening), server_tls)
        reader, writer = await dialling
        await over.ready()
        beside_reader, beside_writer = await asyncio.open_connection("127.0.0.1", listening.getsockname()[1])
        beside = carrier.accept(await _accepted(listening), None)
        await beside.ready()
        carrier.finish(over, last_words)
        carrier.drop_closing()
        received = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                received += len(data)
        assert received < len(last_words)
        carrier.finish(beside, b"still here")
        assert await beside_reader.read() == b"still here"
        for each in (writer, beside_writer):
            each.close()
            with contextlib.suppress(ConnectionError):
                await each.wait_closed()


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("last_words", [b"", b"last words"])
async def test_a_peer_that_went_meanwhile_is_no_fault(
    make_carrier: Callable[..., Carrier], how: str, last_words: bytes
) -> None:
    """The loop has not told of it yet; the answer to the last words may come while they are sent."""
    carrier = make_carrier()
    with listener() as listening:
        peer = socket.create_connection(listening.getsockname())
        accepted = await _accepted(listening)
        stream = carrier.accept(accepted, None)
        await stream.ready()
        if how == "reset":
            reset(peer)
        else:
            peer.close()
        carrier.finish(stream, last_words)
        await until(lambda: accepted.fileno() == -1)


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["closed", "reset"])
async def test_one_over_tls_that_went_meanwhile_is_broken_off(
    make_carrier: Callable[..., Carrier],
    server_tls: ServerTls,
    authority: trustme.CA,
    leave: Callable[[socket.socket], None],
) -> None:
    """The session ticket is still to be sent, before the end."""
    carrier = make_carrier()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    def shake_hands(address: tuple[str, int]) -> ssl.SSLSocket:
        return trusting.wrap_socket(socket.create_connection(address), server_hostname="node.test")

    with listener() as listening:
        dialling = asyncio.ensure_future(asyncio.to_thread(shake_hands, listening.getsockname()))
        accepted = await _accepted(listening)
        stream = carrier.accept(accepted, server_tls)
        await stream.ready()
        leave(await dialling)
        cast(Any, stream).break_off()
        await until(lambda: accepted.fileno() == -1)
