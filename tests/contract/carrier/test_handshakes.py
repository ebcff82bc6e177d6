"""What is reported of a handshake."""

import asyncio
import socket
import sys
from collections.abc import Callable

import pytest
from portway_carrier.contract import Carrier
from portway_carrier.errors import HandshakeFailed
from portway_carrier.values import ClientTls, Handshake, ServerTls
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import listener, until
from portway_testkit.visitors.hellos import real_hello


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a round trip is")
@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_round_trip_is_what_the_kernel_has_seen(
    make_carrier: Callable[..., Carrier], server_tls: ServerTls, client_tls: ClientTls, encrypted: bool
) -> None:
    """Both ends report it, and it is shorter than the handshake took."""
    carrier = make_carrier()
    with listener() as listening:
        address = Endpoint("127.0.0.1", listening.getsockname()[1])
        dialled = carrier.connect(address, client_tls if encrypted else None)
        sock, _ = await asyncio.get_running_loop().sock_accept(listening)
        accepted = carrier.accept(sock, server_tls if encrypted else None)
        ours: Handshake = await dialled.ready()
        theirs: Handshake = await accepted.ready()
    assert ours.round_trip is not None
    assert 0 < ours.round_trip < 1
    if encrypted:
        assert theirs.round_trip is not None
        assert 0 < theirs.round_trip < 1
    dialled.abort()
    accepted.abort()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_who_accepts_is_told_that_a_stream_is_established(
    make_carrier: Callable[..., Carrier], server_tls: ServerTls, client_tls: ClientTls, encrypted: bool
) -> None:
    """Once, and not before the peer has done its part."""
    carrier = make_carrier()
    told: list[bool] = []
    with listener() as listening:
        address = Endpoint("127.0.0.1", listening.getsockname()[1])
        dialled = carrier.connect(address, client_tls if encrypted else None)
        sock, _ = await asyncio.get_running_loop().sock_accept(listening)
        accepted = carrier.accept(sock, server_tls if encrypted else None, lambda: told.append(True))
        assert not told
        await dialled.ready()
        await accepted.ready()
        await until(lambda: bool(told))
    assert told == [True]
    dialled.abort()
    accepted.abort()


async def test_a_handshake_that_the_peer_gives_up_is_not_a_failed_one(
    make_carrier: Callable[..., Carrier], server_tls: ServerTls
) -> None:
    """Only one that breaks TLS is counted as failed."""
    carrier = make_carrier()
    loop = asyncio.get_running_loop()
    with listener() as listening:
        for last_words in (b"", real_hello("node.test")[:40], b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(listening.getsockname()) as peer:
                sock, _ = await loop.sock_accept(listening)
                accepted = carrier.accept(sock, server_tls, _never)
                peer.sendall(last_words)
                peer.shutdown(socket.SHUT_WR)
                with pytest.raises(HandshakeFailed):
                    await accepted.ready()
    assert (carrier.counters.handshakes, carrier.counters.handshakes_failed) == (0, 1)


def _never() -> None:
    raise AssertionError("the handshake was not completed")
