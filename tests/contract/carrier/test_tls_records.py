"""TLS records without data: what OpenSSL answers is sent at once, and a flood of them ends the connection.

And the versions of TLS: visitors have two, lanes one.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace

import pytest
import trustme
from portway_carrier.errors import HandshakeFailed
from portway_carrier.values import ClientTls, Outcome, ServerTls
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import CarrierLink, CarrierMaker, listener
from portway_testkit.visitors.hand_sealed import ALERT, DATA, HANDSHAKE, HandSealed
from portway_testkit.visitors.hellos import message

TIMEOUT = 10.0
FLOOD = 2_000  # records
HELLO = message()

Flood = Callable[[HandSealed], bytes]


def context(authority: trustme.CA, version: ssl.TLSVersion) -> ssl.SSLContext:
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    trusting.minimum_version = trusting.maximum_version = version
    return trusting


def visitor(at: Endpoint, trusting: ssl.SSLContext) -> HandSealed:
    return HandSealed((at.host, at.port), trusting, "node.test", TIMEOUT)


async def test_renegotiation_is_declined_at_once(
    link: CarrierLink, server_tls: ServerTls, authority: trustme.CA
) -> None:
    """The visitor gets an alert for each request, and the connection goes on."""

    def ask(at: Endpoint) -> None:
        with visitor(at, context(authority, ssl.TLSVersion.TLSv1_2)) as asking:
            asking.socket.sendall(asking.sealed(HANDSHAKE, HELLO))
            with pytest.raises(ssl.SSLError, match="NO_RENEGOTIATION"):
                asking.read()
            for _ in range(3):
                asking.socket.sendall(asking.sealed(HANDSHAKE, HELLO))
                assert asking.socket.recv(100)[0] == ALERT
            asking.socket.sendall(asking.sealed(DATA, b"the same connection"))

    with listener() as listening:
        link.serve_with(listening.getsockname()[1])
        asked = asyncio.to_thread(ask, link.visitors(server_tls))
        _, received = await asyncio.gather(asked, all_from(listening))
    assert received == b"the same connection"


async def test_a_key_update_changes_the_keys_of_both_directions(
    link: CarrierLink, server_tls: ServerTls, authority: trustme.CA
) -> None:
    """OpenSSL answers it with the next data; what follows is understood at both ends."""

    def ask(at: Endpoint) -> None:
        with visitor(at, context(authority, ssl.TLSVersion.TLSv1_3)) as asking:
            for _ in range(3):
                asking.socket.sendall(asking.key_update(asks=True) + asking.sealed(DATA, b"on"))
                answer = b""
                while len(answer) < 2:
                    answer += asking.read()
                assert answer == b"on"

    async def echo(listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(listening)
        with connection:
            while piece := await loop.sock_recv(connection, 100):
                await loop.sock_sendall(connection, piece)

    with listener() as listening:
        link.serve_with(listening.getsockname()[1])
        await asyncio.gather(asyncio.to_thread(ask, link.visitors(server_tls)), echo(listening))


async def test_many_small_records_are_delivered_whole(
    link: CarrierLink, server_tls: ServerTls, authority: trustme.CA
) -> None:
    """Thousands in one piece, with KeyUpdates among them as they may occur."""

    def say(at: Endpoint) -> None:
        with visitor(at, context(authority, ssl.TLSVersion.TLSv1_3)) as saying:
            records = []
            for number in range(5_000):
                records.append(saying.sealed(DATA, number.to_bytes(2)))
                if number % 500 == 0:
                    records.append(saying.key_update(asks=False))
            saying.socket.sendall(b"".join(records))

    with listener() as listening:
        link.serve_with(listening.getsockname()[1])
        said = asyncio.to_thread(say, link.visitors(server_tls))
        _, received = await asyncio.gather(said, all_from(listening))
    assert received == b"".join(number.to_bytes(2) for number in range(5_000))


FLOODS: dict[str, tuple[ssl.TLSVersion, Flood]] = {
    "KeyUpdates": (ssl.TLSVersion.TLSv1_3, lambda by: by.key_update(asks=False)),
    "KeyUpdates that ask for one": (ssl.TLSVersion.TLSv1_3, lambda by: by.key_update(asks=True)),
    "KeyUpdates between data": (ssl.TLSVersion.TLSv1_3, lambda by: by.sealed(DATA, b"x") + by.key_update(asks=False)),
    "empty records": (ssl.TLSVersion.TLSv1_3, lambda by: by.sealed(DATA, b"")),
    "empty records between data": (ssl.TLSVersion.TLSv1_3, lambda by: by.sealed(DATA, b"") + by.sealed(DATA, b"x")),
    "warnings": (ssl.TLSVersion.TLSv1_3, lambda by: by.sealed(ALERT, b"\x01\x5a")),
    "warnings between data": (ssl.TLSVersion.TLSv1_3, lambda by: by.sealed(ALERT, b"\x01\x5a") + by.sealed(DATA, b"x")),
    "requests to renegotiate": (ssl.TLSVersion.TLSv1_2, lambda by: by.sealed(HANDSHAKE, HELLO)),
    "empty records of TLS 1.2": (ssl.TLSVersion.TLSv1_2, lambda by: by.sealed(DATA, b"") + by.sealed(DATA, b"x")),
    "warnings of TLS 1.2": (ssl.TLSVersion.TLSv1_2, lambda by: by.sealed(ALERT, b"\x01\x5a") + by.sealed(DATA, b"x")),
}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_without_data_ends_the_connection(
    link: CarrierLink, server_tls: ServerTls, authority: trustme.CA, kind: str, at_once: bool
) -> None:
    """All in one piece, or a record at a time."""
    version, make = FLOODS[kind]

    def flood(at: Endpoint) -> None:
        with visitor(at, context(authority, version)) as flooding:
            records = [make(flooding) for _ in range(FLOOD)]
            try:
                for piece in [b"".join(records)] if at_once else records:
                    flooding.socket.sendall(piece)
                while flooding.socket.recv(1 << 16):
                    pass
            except ConnectionError:
                pass

    with listener() as listening:
        link.serve_with(listening.getsockname()[1])
        await asyncio.to_thread(flood, link.visitors(server_tls))
    assert (await link.end()).outcome in (Outcome.RESET, Outcome.VISITOR_LOST)


async def all_from(listening: socket.socket) -> bytes:
    """What one visitor has sent when it has left."""
    loop = asyncio.get_running_loop()
    connection, _ = await loop.sock_accept(listening)
    received = b""
    with connection:
        try:
            while piece := await loop.sock_recv(connection, 1 << 16):
                received += piece
        except ConnectionResetError:
            pass
    return received


@pytest.mark.parametrize("alpn", [LINK_ALPN, MESH_ALPN])
async def test_lanes_are_accepted_by_tls_1_3_alone(
    make_carrier: CarrierMaker, server_tls: ServerTls, authority: trustme.CA, alpn: str
) -> None:
    """A client that speaks 1.2 at most is refused in the handshake."""
    carrier = make_carrier()
    tls = ServerTls(server_tls.certificate, server_tls.key, alpn=alpn)
    for version, refused in ((ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, False)):
        ours, theirs = socket.socketpair()
        stream = carrier.accept(ours, tls)
        trusting = context(authority, version)
        trusting.set_alpn_protocols([alpn])
        opened = asyncio.open_connection(sock=theirs, ssl=trusting, server_hostname="node.test")
        if refused:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await opened
            with pytest.raises(HandshakeFailed):
                await stream.ready()
        else:
            _, writer = await opened
            assert (await stream.ready()).alpn == alpn
            writer.transport.abort()
            stream.abort()


@pytest.mark.parametrize("alpn", [LINK_ALPN, MESH_ALPN])
async def test_lanes_are_dialled_by_tls_1_3_alone(
    make_carrier: CarrierMaker, client_tls: ClientTls, server_tls: ServerTls, authority: trustme.CA, alpn: str
) -> None:
    """A server that speaks 1.2 at most is no relay node, neither to a client nor to another node."""
    carrier, mesh = make_carrier(), alpn == MESH_ALPN
    tls = replace(client_tls, alpn=alpn)
    if mesh:
        tls = replace(tls, certificate=server_tls.certificate, key=server_tls.key)
    for version, refused in ((ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, False)):
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("node.test").configure_cert(serving)
        serving.maximum_version = version
        serving.set_alpn_protocols([alpn])

        async def end(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        server = await asyncio.start_server(end, "127.0.0.1", 0, ssl=serving)
        async with server:
            stream = carrier.connect(Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]), tls)
            if refused:
                with pytest.raises(HandshakeFailed):
                    await stream.ready()
            else:
                assert (await stream.ready()).alpn == alpn
                stream.abort()
