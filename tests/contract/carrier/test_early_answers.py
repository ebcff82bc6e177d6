"""Answers that come before their upload has ended, and what was sent before a break: all of it arrives, in order,
before the end does."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from portway_carrier.values import Limits, Outcome, ServerTls, SpareSizes
from portway_proto.wire.frames import FrameType, data_header, encode_number
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import (
    CarrierLink,
    LinkMaker,
    RawAcceptorMaker,
    local_server,
    relayed,
    until,
)
from portway_testkit.visitors.hand_tls import HandTls

ANSWER = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo big\n"
# More than every buffer on the way holds.
UPLOAD = 32 << 20
VISITS = 10
PIECE = 1 << 18
LATE = 0.2  # seconds


@asynccontextmanager
async def refusing() -> AsyncIterator[int]:
    """A local server that answers as soon as it has read something, and closes with the rest unread: the kernel says
    RST behind the answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(ANSWER)

    async with local_server(answer) as port:
        yield port


def upload_raw(address: Endpoint) -> tuple[bytes, str]:
    """As HandTls.upload, over plain TCP."""
    with socket.create_connection((address.host, address.port), timeout=20) as sock:
        sock.setblocking(False)
        return asyncio.run(_upload(sock))


async def _upload(sock: socket.socket) -> tuple[bytes, str]:
    loop, received = asyncio.get_running_loop(), b""

    async def send() -> None:
        try:
            await loop.sock_sendall(sock, bytes(UPLOAD))
        except ConnectionError:
            pass

    sending = asyncio.ensure_future(send())
    try:
        async with asyncio.timeout(20):
            while data := await loop.sock_recv(sock, 65536):
                received += data
        return received, "FIN"
    except ConnectionResetError:
        return received, "reset"
    finally:
        sending.cancel()


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_raw_visitor_gets_an_early_answer(make_link: LinkMaker, hops: int) -> None:
    """Every time, over one node and over two. Behind it comes what the local server's end was, or a reset."""
    near = await make_link()
    async with refusing() as port:
        at, ingress = await served(make_link, near, port, hops)
        for number in range(VISITS):
            assert (await asyncio.to_thread(upload_raw, at))[0] == ANSWER, number
    await near.settled()
    await until(lambda: ingress.pool.counts.busy == 0)


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_tls_visitor_gets_an_early_answer(
    make_link: LinkMaker,
    server_tls: ServerTls,
    trusting_only: Callable[..., ssl.SSLContext],
    version: ssl.TLSVersion,
    hops: int,
) -> None:
    """The same; the connection is not reset while its visitor may still have to read."""
    near = await make_link()
    async with refusing() as port:
        at, ingress = await served(make_link, near, port, hops, server_tls)
        for number in range(VISITS):
            with await asyncio.to_thread(HandTls, at, trusting_only(version), "node.test") as visitor:
                assert await asyncio.to_thread(visitor.upload, UPLOAD) == ANSWER, number
                assert visitor.end in ("close_notify", "FIN")
    await near.settled()
    await until(lambda: ingress.pool.counts.busy == 0)


async def served(
    make_link: LinkMaker, near: CarrierLink, port: int, hops: int, tls: ServerTls | None = None
) -> tuple[Endpoint, CarrierLink]:
    """A public address whose visitors get to the server at `port` over so many nodes, and the first node's link."""
    if hops == 1:
        near.serve_with(port)
        return near.visitors(tls), near
    far = await make_link()
    far.serve_with(port)
    ingress = await make_link(sizes=SpareSizes(quiet=0, busy=0))
    await relayed(ingress, far)
    return ingress.visitors(tls), ingress


@pytest.mark.parametrize("encrypted", [False, True])
async def test_what_came_before_a_reset_is_delivered_before_it(
    make_link: LinkMaker,
    raw_acceptor: RawAcceptorMaker,
    server_tls: ServerTls,
    trusting: ssl.SSLContext,
    encrypted: bool,
) -> None:
    """RESET follows DATA that the visitor has not read: he gets all of it, and then a break that looks like none of his
    own: a reset, or TCP's end without that of TLS."""
    size = 8 << 20
    link = await make_link(Limits(high_water=2 * size), sizes=SpareSizes(quiet=0, busy=0))
    lane = await raw_acceptor(link)
    at = link.visitors(server_tls if encrypted else None)
    visiting = asyncio.ensure_future(asyncio.to_thread(read_late, at, trusting if encrypted else None))
    assert (await lane.frame())[0] == FrameType.OPEN
    lane.send(
        encode_number(FrameType.OPENED, 1),
        *(data_header(PIECE) + bytes(PIECE) for _ in range(size // PIECE)),
        encode_number(FrameType.RESET, 1),
    )
    assert (await lane.frame())[0] == FrameType.RESET, "the lane is idle again, whenever its visitor reads"
    assert (await link.end()).outcome is Outcome.RESET
    assert await visiting == (size, "FIN" if encrypted else "reset")


def read_late(at: Endpoint, context: ssl.SSLContext | None) -> tuple[int, str]:
    """What a visitor gets who begins to read after a while: the number of bytes, and the end."""
    if context is not None:
        with HandTls(at, context, "node.test") as visitor:
            time.sleep(LATE)
            return len(visitor.receive()), visitor.end
    with socket.create_connection((at.host, at.port), timeout=20) as sock:
        time.sleep(LATE)
        size = 0
        try:
            while data := sock.recv(PIECE):
                size += len(data)
        except ConnectionResetError:
            return size, "reset"
        return size, "FIN"
