"""TLS 1.3 ends one direction at a time (RFC 8446 §6.1), as TCP does; before it a close_notify ended both."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from portway_carrier.contract import Carrier, Stream
from portway_carrier.errors import CarrierError
from portway_carrier.values import Limits, Outcome, ServerTls
from portway_proto.wire.frames import FrameType, encode_frame
from portway_proto.wire.lane import Side
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import CarrierLink, CarrierMaker, LinkMaker, Recorder, listener
from portway_testkit.visitors.hand_tls import HandTls

Trusting = Callable[[ssl.TLSVersion], ssl.SSLContext]
NEVER = 3600.0
# Seconds: the kernel delays an acknowledgement by 40 ms, each time. Where other programs run, much else takes as long:
# one visit that was faster shows that nothing was waited for.
PROMPT = 0.03
TRIES = 100
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@asynccontextmanager
async def visited(
    link: CarrierLink, tls: ServerTls, context: ssl.SSLContext
) -> AsyncIterator[tuple[HandTls, socket.socket]]:
    """A visitor and the local server's end of its visit, after a byte of each."""
    loop = asyncio.get_running_loop()
    with listener() as listening:
        link.serve_with(listening.getsockname()[1])
        at = link.visitors(tls)
        with await asyncio.to_thread(HandTls, at, context, "node.test") as visitor:
            visitor.send(b"?")
            server, _ = await loop.sock_accept(listening)
            with server:
                assert await loop.sock_recv(server, 10) == b"?"
                await loop.sock_sendall(server, b"!")
                assert await asyncio.to_thread(visitor.receive, 1) == b"!"
                yield visitor, server


async def received(server: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while piece := await loop.sock_recv(server, 65536):
        data += piece
    return data


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_visitor_that_has_ended_its_direction_gets_its_answer(
    link: CarrierLink, server_tls: ServerTls, trusting_only: Trusting, leaves: bool
) -> None:
    """After its close_notify, and after TCP's end behind it; the local server knows of the end before it answers."""
    loop = asyncio.get_running_loop()
    async with visited(link, server_tls, trusting_only(TLS13)) as (visitor, server):
        visitor.send(b"request")
        visitor.notify()
        if leaves:
            visitor.sock.shutdown(socket.SHUT_WR)
        assert await received(server) == b"request"
        await loop.sock_sendall(server, b"answer" * 100_000)
        server.close()
        assert await asyncio.to_thread(visitor.receive) == b"answer" * 100_000
        assert visitor.end == "close_notify"
        assert await asyncio.to_thread(visitor.sock.recv, 1) == b"", "both have ended: nothing is waited for"
        assert (await link.end()).outcome is Outcome.DONE
    await link.settled()


async def test_a_local_server_that_has_ended_its_direction_gets_the_rest(
    link: CarrierLink, server_tls: ServerTls, trusting_only: Trusting
) -> None:
    """Its visitor is told by close_notify, and goes on sending."""
    async with visited(link, server_tls, trusting_only(TLS13)) as (visitor, server):
        server.shutdown(socket.SHUT_WR)
        assert await asyncio.to_thread(visitor.receive) == b""
        assert visitor.end == "close_notify"
        await asyncio.to_thread(visitor.send, b"rest" * 100_000)
        visitor.notify()
        assert await received(server) == b"rest" * 100_000
        assert (await link.end()).outcome is Outcome.DONE
        assert await asyncio.to_thread(visitor.sock.recv, 1) == b""
    await link.settled()


async def test_an_end_of_tcp_alone_ends_both(link: CarrierLink, server_tls: ServerTls, trusting_only: Trusting) -> None:
    """It is how a connection is cut off (RFC 8446 §6.1), and how most of those end that nobody reads any more."""
    async with visited(link, server_tls, trusting_only(TLS13)) as (visitor, server):
        visitor.send(b"request")
        visitor.sock.shutdown(socket.SHUT_WR)
        assert await received(server) == b"request"
        assert (await link.end()).outcome is Outcome.DONE
        assert await asyncio.to_thread(visitor.receive) == b""
    await link.settled()


async def test_before_tls_1_3_a_close_notify_ends_both(
    link: CarrierLink, server_tls: ServerTls, trusting_only: Trusting
) -> None:
    """The answer to it is due at once (RFC 5246 §7.2.1), and then TCP's end, also to a visitor that says no more."""
    async with visited(link, server_tls, trusting_only(TLS12)) as (visitor, server):
        visitor.send(b"request")
        visitor.notify()
        assert await received(server) == b"request"
        assert (await link.end()).outcome is Outcome.DONE
        assert await asyncio.to_thread(visitor.receive) == b""
        assert visitor.end == "close_notify"
        assert await asyncio.to_thread(visitor.sock.recv, 1) == b""
    await link.settled()


@pytest.mark.parametrize("version", [TLS12, TLS13])
async def test_a_visitor_that_never_ends_is_dropped(
    make_link: LinkMaker, server_tls: ServerTls, trusting_only: Trusting, version: ssl.TLSVersion
) -> None:
    """A pool of connections looks at one when it uses it again: the visit of a server that has closed does not stay for
    as long."""
    link = await make_link(Limits(linger=0.3))
    async with visited(link, server_tls, trusting_only(version)) as (visitor, server):
        server.close()
        assert await asyncio.to_thread(visitor.receive) == b""
        assert visitor.end == "close_notify"
        assert (await link.end()).outcome is Outcome.DONE
        assert await asyncio.to_thread(visitor.sock.recv, 1) == b""
    await link.settled()


async def test_a_visitor_that_reads_slowly_gets_all_of_it(
    make_link: LinkMaker, server_tls: ServerTls, trusting_only: Trusting
) -> None:
    """However much longer than Limits.linger that takes, here 1.6 s: he takes some all the time."""
    size, pieces = 16 << 20, 16
    link = await make_link(Limits(linger=1.0, high_water=2 * size))
    loop = asyncio.get_running_loop()
    async with visited(link, server_tls, trusting_only(TLS13)) as (visitor, server):
        await loop.sock_sendall(server, bytes(size))
        server.close()
        taken = 0
        for _ in range(pieces):
            taken += len(await asyncio.to_thread(visitor.receive, size // pieces))
            await asyncio.to_thread(time.sleep, 0.1)
        taken += len(await asyncio.to_thread(visitor.receive))
        assert (taken, visitor.end) == (size, "close_notify")
        assert (await link.end()).outcome is Outcome.DONE
    await link.settled()


async def test_what_follows_a_close_notify_is_dropped(
    link: CarrierLink, server_tls: ServerTls, trusting_only: Trusting
) -> None:
    """No byte of it is kept: a visitor fills nobody's memory with it."""
    loop = asyncio.get_running_loop()
    async with visited(link, server_tls, trusting_only(TLS13)) as (visitor, server):
        visitor.notify()
        assert await received(server) == b""
        await asyncio.to_thread(visitor.sock.sendall, b"\x17\x03\x03\x40\x00" + bytes(32 << 20))
        await loop.sock_sendall(server, b"answer")
        assert await asyncio.to_thread(visitor.receive, 6) == b"answer"
        (visit,) = link.joined
        assert (visit.bytes_in, visit.buffered) == (1, 0)
        server.close()
        await link.end()
    await link.settled()


async def test_a_visitor_that_waits_for_acknowledgements_gets_them(
    link: CarrierLink, server_tls: ServerTls, trusting_only: Trusting
) -> None:
    """Without TCP_NODELAY its first request waits until the end of its handshake is acknowledged, and the kernel delays
    that by 40 ms for a server that has nothing to say."""
    loop = asyncio.get_running_loop()
    taken: list[float] = []
    while len(taken) < TRIES and min(taken, default=PROMPT) >= PROMPT:
        began = loop.time()
        async with visited(link, server_tls, trusting_only(TLS13)) as (_, server):
            taken.append(loop.time() - began)
            server.close()
    assert min(taken) < PROMPT, taken


@pytest.mark.parametrize("version", [TLS12, TLS13])
async def test_a_lane_whose_peer_has_ended_before_it_was_framed_is_lost(
    make_carrier: CarrierMaker, server_tls: ServerTls, trusting_only: Trusting, version: ssl.TLSVersion
) -> None:
    """A lane has no half-close: visitors who were given one would wait for an answer in vain. What came before the end
    is read."""
    carrier, events = make_carrier(), Recorder()
    with listener() as listening:
        at = Endpoint(*listening.getsockname())
        peer = await asyncio.gather(
            asyncio.to_thread(HandTls, at, trusting_only(version), "node.test"),
            accepted(carrier, listening, server_tls),
        )
    with peer[0] as visitor:
        stream = peer[1]
        await stream.ready()
        visitor.send(encode_frame(FrameType.PARK, b"park"))
        visitor.notify()
        await stream.first_bytes(NEVER, 1_000)
        try:
            carrier.lane(stream, Side.OPENER, events)
        except CarrierError:
            assert version is TLS12, "there the end of one direction is the end of both"
            return
        await events.until(lambda: bool(events.closed))
        assert events.frames == [(FrameType.PARK, b"park")]


async def accepted(carrier: Carrier, listening: socket.socket, tls: ServerTls) -> Stream:
    sock, _ = await asyncio.get_running_loop().sock_accept(listening)
    return carrier.accept(sock, tls)
