"""TLS with visitors: versions, tickets, and ends without close_notify."""

import asyncio
import socket
import ssl

import pytest
import trustme
from portway_carrier.values import Outcome, ServerTls
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import CarrierLink, listener


def ask(
    address: Endpoint, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bytes, bool, ssl.SSLSession]:
    """A visit by `ssl` itself: the whole answer, whether `session` was resumed, and the session to resume next."""
    with (
        socket.create_connection((address.host, address.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="node.test", session=session) as visitor,
    ):
        visitor.sendall(b"ask")
        answer = b""
        while chunk := visitor.recv(1 << 16):
            answer += chunk
        assert visitor.session is not None
        return answer, bool(visitor.session_reused), visitor.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_visitor_need_not_speak_first(
    link: CarrierLink, server_tls: ServerTls, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    """The whole handshake is sent though nothing follows it, while visitor and local server both wait."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.minimum_version = context.maximum_version = version
    loop = asyncio.get_running_loop()
    with listener() as listening:
        link.serve_with(listening.getsockname()[1])
        at = link.visitors(server_tls)
        reader, writer = await asyncio.open_connection(at.host, at.port, ssl=context, server_hostname="node.test")
        connection, _ = await loop.sock_accept(listening)
        with connection:
            await loop.sock_sendall(connection, b"welcome")
            assert await reader.readexactly(7) == b"welcome"
            writer.write(b"thanks")
            assert await loop.sock_recv(connection, 100) == b"thanks"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert (await link.end()).outcome is Outcome.DONE


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_visitor_comes_back_with_its_ticket(
    link: CarrierLink, server_tls: ServerTls, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    """The ticket is sent with the answer at the latest, and the next handshake resumes from it."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.minimum_version = context.maximum_version = version
    loop, session = asyncio.get_running_loop(), None
    with listener() as listening:
        link.serve_with(listening.getsockname()[1])
        at = link.visitors(server_tls)
        for visit in range(2):
            asking = asyncio.to_thread(ask, at, context, session)
            (answer, resumed, session), _ = await asyncio.gather(asking, answer_once(loop, listening))
            assert answer == b"an answer"
            assert resumed is (visit == 1)


async def answer_once(loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
    connection, _ = await loop.sock_accept(listening)
    with connection:
        await loop.sock_recv(connection, 1 << 16)
        await loop.sock_sendall(connection, b"an answer")


async def visitor_by_hand(address: Endpoint, context: ssl.SSLContext, says: bytes) -> socket.socket:
    """A visitor's connection that has sent `says` over TLS; the test does the rest."""
    loop = asyncio.get_running_loop()
    plain = socket.socket()
    plain.setblocking(False)
    await loop.sock_connect(plain, (address.host, address.port))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="node.test")
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await loop.sock_sendall(plain, outgoing.read())
            incoming.write(await loop.sock_recv(plain, 1 << 16))
        else:
            break
    tls.write(says)
    await loop.sock_sendall(plain, outgoing.read())
    return plain


async def test_the_end_of_tcp_is_the_end_of_tls(
    link: CarrierLink, server_tls: ServerTls, trusting: ssl.SSLContext
) -> None:
    """What a visitor sent that ends TCP without close_notify is delivered completely."""
    loop = asyncio.get_running_loop()
    with listener() as listening:
        link.serve_with(listening.getsockname()[1])
        with await visitor_by_hand(link.visitors(server_tls), trusting, b"all that there is to say") as plain:
            plain.shutdown(socket.SHUT_WR)
            connection, _ = await loop.sock_accept(listening)
            with connection:
                received = b""
                while chunk := await loop.sock_recv(connection, 1 << 16):
                    received += chunk
                assert received == b"all that there is to say"
            await link.end()


async def test_garbage_behind_the_handshake_breaks_the_visit_off(
    link: CarrierLink, server_tls: ServerTls, trusting: ssl.SSLContext
) -> None:
    """Bytes that cannot be decrypted end the connection, and none of them reaches the local server."""
    loop = asyncio.get_running_loop()
    with listener() as listening:
        link.serve_with(listening.getsockname()[1])
        with await visitor_by_hand(link.visitors(server_tls), trusting, b"fine") as plain:
            connection, _ = await loop.sock_accept(listening)
            with connection:
                await loop.sock_sendall(connection, b"welcome")
                assert await loop.sock_recv(connection, 100) == b"fine"
                assert await loop.sock_recv(plain, 1 << 16)
                await loop.sock_sendall(plain, b"\x17\x03\x03\x00\x20" + b"g" * 32)
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(connection, 100)
    assert (await link.end()).outcome is Outcome.RESET
