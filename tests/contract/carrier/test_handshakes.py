"""What is reported of a handshake."""

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable

import pytest
import trustme
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


@pytest.mark.parametrize("piece", [1, 42, 1 << 16])
@pytest.mark.parametrize(
    ("curve", "before", "said"),
    [
        ("X25519", b"", None),
        ("secp384r1", b"", "asks for another key exchange"),
        ("secp384r1", b"\x15\x03\x03\x00\x02\x01\x5a", "with a warning"),  # OpenSSL passes over it
        ("secp384r1", b"\x14\x03\x03\x00\x01\x01", "asks for another key exchange"),
        ("secp384r1", b"\x16\x03\x03\x00\x04" + bytes(4), "asks for another key exchange"),  # HelloRequest
    ],
    ids=["its own", "another", "after a warning", "after a change of ciphers", "after another message"],
)
async def test_a_server_cannot_choose_the_key_exchange(
    make_carrier: Callable[..., Carrier],
    client_tls: ClientTls,
    authority: trustme.CA,
    piece: int,
    curve: str,
    before: bytes,
    said: str | None,
) -> None:
    """One that asks for another group than that of the client's key share gets no second hello: its answer could cost
    the client hundreds of times its own effort. The answer may come in any pieces."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("node.test").configure_cert(context)
    if client_tls.alpn is not None:
        context.set_alpn_protocols([client_tls.alpn])
    if curve != "X25519":
        context.set_ecdh_curve(curve)
    from_client, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(from_client, to_client, server_side=True)
    loop = asyncio.get_running_loop()
    with listener() as listening:
        dialled = make_carrier().connect(Endpoint(*listening.getsockname()), client_tls)
        sock, _ = await loop.sock_accept(listening)
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            from_client.write(await loop.sock_recv(sock, 1 << 16))
            with pytest.raises(ssl.SSLWantReadError):
                server.do_handshake()
            answer = before + to_client.read()
            reading = asyncio.ensure_future(loop.sock_recv(sock, 1 << 16))
            try:
                for start in range(0, 100, piece):
                    await loop.sock_sendall(sock, answer[start : min(100, start + piece)])
                    await asyncio.sleep(0)
                await loop.sock_sendall(sock, answer[100:])
            except ConnectionError:
                pass
            if said is not None:
                with pytest.raises(HandshakeFailed, match=said):
                    await dialled.ready()
            else:
                assert (await dialled.ready()).alpn == client_tls.alpn
            dialled.abort()
            try:
                second = await reading
            except ConnectionError:
                second = b""
            assert bool(second) is (curve == "X25519"), "a second hello was sent"


def _never() -> None:
    raise AssertionError("the handshake was not completed")
