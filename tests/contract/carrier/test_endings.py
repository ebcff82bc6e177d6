"""How visits end: half-closes, TLS visitors that leave, resets at every stage. No byte is lost, no resource leaks."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from portway_carrier.values import Limits, Outcome, PoolLimits, ServerTls, SpareSizes
from portway_proto.wire.frames import FrameType, Opening, RefusalReason, data_header, encode_number, encode_open
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import (
    LABEL,
    OPENING,
    CarrierLink,
    LinkMaker,
    RawOpenerMaker,
    broken_off,
    listener,
    relayed,
    reset,
    stream_of,
    transport_of,
    until,
    until_still,
)

ONE_LANE = {"sizes": SpareSizes(quiet=1, busy=1, lanes=1), "pool_limits": PoolLimits(lanes=1)}


@asynccontextmanager
async def origin() -> AsyncIterator[tuple[int, Callable[[], Awaitable[socket.socket]]]]:
    """A local server driven by hand: its port, and the next connection to it."""
    loop = asyncio.get_running_loop()
    listening = listener()
    taken: list[socket.socket] = []

    async def take() -> socket.socket:
        connection, _ = await loop.sock_accept(listening)
        taken.append(connection)
        return connection

    yield listening.getsockname()[1], take
    for sock in (listening, *taken):
        sock.close()


async def dial(address: Endpoint) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
    return sock


async def receive(sock: socket.socket, size: int | None = None) -> bytes:
    """`size` bytes, or all until the end."""
    loop, received = asyncio.get_running_loop(), bytearray()
    while size is None or len(received) < size:
        data = await loop.sock_recv(sock, 1 << 16)
        if not data:
            break
        received += data
    return bytes(received)


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def fill(sock: socket.socket) -> int:
    """Send until nothing more is taken: every buffer on the way is full."""
    sent = 0

    def send_more() -> int:
        nonlocal sent
        with suppress(BlockingIOError):
            sent += sock.send(b"f" * 65536)
        return sent

    await until_still(send_more)
    return sent


async def test_both_directions_end_alone_and_in_any_order(link: CarrierLink) -> None:
    """Each end of file is passed on separately, whichever is first, and the other direction goes on."""
    async with origin() as (port, accepted):
        link.serve_with(port)
        visitor = await dial(link.visitors())
        server = await accepted()
        await send(server, b"farewell")
        server.shutdown(socket.SHUT_WR)
        assert await receive(visitor) == b"farewell"
        await send(visitor, b"still here" * 50_000)
        assert await receive(server, 500_000) == b"still here" * 50_000
        visitor.shutdown(socket.SHUT_WR)
        assert await receive(server) == b""
        assert (await link.end()).outcome is Outcome.DONE
        visitor.close()
    await link.settled()


async def test_a_slow_reader_gets_everything_after_both_ends(make_link: LinkMaker) -> None:
    """A visitor that half-closed and reads late gets the whole answer, though its server has closed and paused
    connections are checked with the kernel meanwhile."""
    link = await make_link(Limits(high_water=16 * 1024, unacknowledged=0.4))
    async with origin() as (port, accepted):
        link.serve_with(port)
        visitor = await dial(link.visitors())
        visitor.shutdown(socket.SHUT_WR)
        server = await accepted()
        assert await receive(server) == b""
        size = await fill(server)
        server.close()
        loop = asyncio.get_running_loop()
        asked = loop.time() + 1.0  # five times
        await until(lambda: loop.time() > asked)
        assert len(await receive(visitor)) == size
        assert (await link.end()).outcome is Outcome.DONE
        visitor.close()


async def test_what_came_before_the_lane_is_sent_with_its_end(make_link: LinkMaker) -> None:
    """A visitor that sends more than MAX_KEPT and ends before it has a lane is delivered completely, with its end."""
    link = await make_link(sizes=SpareSizes(quiet=0, busy=1, lanes=1))
    async with origin() as (port, accepted):
        link.serve_with(port)
        visitor = await dial(link.visitors())
        await send(visitor, b"a" * 300_000)
        visitor.shutdown(socket.SHUT_WR)
        server = await accepted()
        assert await receive(server) == b"a" * 300_000
        server.close()
        assert await receive(visitor) == b""
        assert (await link.end()).outcome is Outcome.DONE
        visitor.close()


async def test_a_refused_visitor_keeps_its_end(link: CarrierLink) -> None:
    """REFUSED hands back bytes and end of file; joined again, both arrive."""
    visitor = await dial(link.visitors())
    await send(visitor, b"once")
    visitor.shutdown(socket.SHUT_WR)
    end = await link.end()
    assert (end.outcome, end.reason) == (Outcome.REFUSED, RefusalReason.NOT_HERE)
    async with origin() as (port, accepted):
        link.serve_with(port)
        link.node.join(stream_of(end), link.pool, OPENING, link.ended)
        server = await accepted()
        assert await receive(server) == b"once"
        server.close()
        assert (await link.end(2)).outcome is Outcome.DONE
    visitor.close()


async def test_a_tls_visitor_that_sends_and_leaves_is_delivered_whole(
    link: CarrierLink, server_tls: ServerTls, trusting: ssl.SSLContext
) -> None:
    """The local server receives what a TLS visitor sent before it closed, and then the end."""
    async with origin() as (port, accepted):
        link.serve_with(port)
        address = link.visitors(server_tls)
        for number, size in enumerate((5, 60_000), 1):
            _, writer = await asyncio.open_connection(
                address.host, address.port, ssl=trusting, server_hostname="node.test"
            )
            writer.write(b"l" * size)
            writer.close()
            server = await accepted()
            assert await receive(server) == b"l" * size
            server.close()
            await link.end(number)
            await writer.wait_closed()
    await link.settled()


async def test_a_tls_visitor_that_leaves_while_paused_is_delivered_whole(
    make_link: LinkMaker, server_tls: ServerTls, trusting: ssl.SSLContext
) -> None:
    """A TLS upload that ends while the local server does not read arrives completely when it reads again."""
    link = await make_link(Limits(high_water=16 * 1024))
    async with origin() as (port, accepted):
        link.serve_with(port)
        address = link.visitors(server_tls)
        _, writer = await asyncio.open_connection(address.host, address.port, ssl=trusting, server_hostname="node.test")
        writer.write(b"?")
        server = await accepted()
        assert await receive(server, 1) == b"?"
        sent = 0

        def send_more() -> int:
            nonlocal sent
            if writer.transport.get_write_buffer_size() == 0:
                writer.write(b"u" * 65536)
                sent += 65536
            return sent

        await until_still(send_more)
        writer.close()
        assert len(await receive(server)) == sent
        server.close()
        await link.end()
        await writer.wait_closed()
    await link.settled()


async def test_a_visitor_that_resets_while_it_is_not_read_is_noticed(make_link: LinkMaker) -> None:
    """The visit of a paused visitor, whose server does not read, ends when the visitor resets it."""
    link = await make_link(Limits(high_water=16 * 1024, unacknowledged=0.8))
    async with origin() as (port, accepted):
        link.serve_with(port)
        visitor = await dial(link.visitors())
        server = await accepted()
        await fill(visitor)
        reset(visitor)
        assert (await link.end()).outcome is Outcome.RESET
        reader, writer = await asyncio.open_connection(sock=server)
        await broken_off(reader)
        writer.close()
    await link.settled()


async def test_a_server_that_resets_while_it_is_not_read_is_noticed(make_link: LinkMaker) -> None:
    """A reset by the local server, while the visitor does not read, reaches the visitor after what was sent before."""
    link = await make_link(Limits(high_water=16 * 1024, unacknowledged=0.8))
    async with origin() as (port, accepted):
        link.serve_with(port)
        at = link.visitors()
        reader, writer = await asyncio.open_connection(at.host, at.port)
        transport_of(writer).pause_reading()
        server = await accepted()
        await fill(server)
        reset(server)
        await until(lambda: link.client.counters.visits_ended == 1)
        transport_of(writer).resume_reading()
        assert await broken_off(reader)
        assert (await link.end()).outcome is Outcome.RESET
        writer.close()
    await link.settled()


@pytest.mark.parametrize("who", ["visitor", "server"])
async def test_a_lane_that_was_broken_off_while_full_is_clean_again(
    make_link: LinkMaker, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reset with every buffer full, the only lane carries the next visit's bytes and no others."""
    # Resets are noticed soon. That nothing is acknowledged is no sign of death for as long as by default: where both
    # directions are full, acknowledgements are beyond the window, and only probes of zero windows get through.
    monkeypatch.setattr("portway_carrier.python.liveness._KERNEL_INTERVAL", 0.2)
    link = await make_link(Limits(high_water=16 * 1024), **ONE_LANE)
    async with origin() as (port, accepted):
        link.serve_with(port)
        address = link.visitors()
        for number in (1, 2):
            visitor = await dial(address)
            server = await accepted()
            await send(visitor, b"new")
            assert await receive(server, 3) == b"new"
            await send(server, b"answer")
            assert await receive(visitor, 6) == b"answer"
            await fill(server)
            await fill(visitor)
            first, second = (visitor, server) if who == "visitor" else (server, visitor)
            reset(first)
            reset(second)
            await link.end(number)
            await link.settled()
    assert len(link.lanes) == 2, "one control lane and one data lane served them all"


async def test_a_visitor_that_leaves_while_its_server_is_dialled(raw_opener: RawOpenerMaker) -> None:
    """END and RESET directly after OPEN: the local server gets what was sent, and the lane is idle at once."""
    async with origin() as (port, accepted):
        lane = await raw_opener(port)
        for number in (1, 2):
            data = b"log line %d" % number
            lane.send(
                encode_open(number, Opening(LABEL, "192.0.2.1", 1)),
                data_header(len(data)) + data,
                encode_number(FrameType.END, number),
                encode_number(FrameType.RESET, number),
            )
            assert (await lane.frame())[0] == FrameType.RESET
            assert await receive(await accepted()) == data


@pytest.mark.parametrize("encrypted", [False, True])
async def test_who_never_reads_the_last_bytes_is_dropped(
    make_link: LinkMaker, server_tls: ServerTls, trusting: ssl.SSLContext, encrypted: bool
) -> None:
    """The visitor's connection is dropped when, after the visit, no byte has left during Limits.linger."""
    size = 32 << 20
    link = await make_link(Limits(high_water=2 * size, linger=0.3))
    async with origin() as (port, accepted):
        link.serve_with(port)
        at = link.visitors(server_tls if encrypted else None)
        tls, name = (trusting, "node.test") if encrypted else (None, None)
        reader, writer = await asyncio.open_connection(at.host, at.port, ssl=tls, server_hostname=name)
        transport_of(writer).pause_reading()
        writer.write(b"?")
        if not encrypted:
            writer.write_eof()
        server = await accepted()
        await receive(server, 1)
        await send(server, b"l" * size)
        server.close()
        assert (await link.end()).outcome is Outcome.DONE
        await link.settled()
        await until(lambda: link.accepted[0].fileno() == -1)
        transport_of(writer).resume_reading()
        received = 0
        try:
            while data := await reader.read(1 << 20):
                received += len(data)
        except ConnectionResetError:
            pass
        assert received < size
        writer.transport.abort()


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_visit_that_is_closed_ends_in_order_on_both_sides(
    make_link: LinkMaker, server_tls: ServerTls, trusting: ssl.SSLContext, encrypted: bool, hops: int
) -> None:
    """As if visitor and local server had ended it: neither sees a reset, nor an end of TLS without close_notify. What
    was sent has arrived, and the lanes serve the next visit."""
    ingress = link = await make_link()
    if hops == 2:
        ingress = await make_link(sizes=SpareSizes(quiet=0, busy=0))
        await relayed(ingress, link)
    context, name = (trusting, "node.test") if encrypted else (None, None)
    async with origin() as (port, take):
        link.serve_with(port)
        at = ingress.visitors(server_tls if encrypted else None)
        for number in (1, 2):
            reader, writer = await asyncio.open_connection(at.host, at.port, ssl=context, server_hostname=name)
            writer.write(b"request")
            server = await take()
            assert await receive(server, 7) == b"request"
            await send(server, b"answer")
            assert await reader.readexactly(6) == b"answer"
            ingress.joined[-1].close()
            assert await reader.read() == b""
            assert await receive(server) == b""
            assert (await ingress.end(number)).outcome is Outcome.DONE
            writer.close()
            await writer.wait_closed()
            await link.settled()


async def test_a_visit_that_is_closed_before_it_is_opened_is_cut(link: CarrierLink) -> None:
    """Nobody has answered yet, so that there is no order to end it in; closing it again does nothing."""
    async with origin() as (port, _):
        link.serve_with(port)
        visitor = await dial(link.visitors())
        await until(lambda: bool(link.joined))
        visit = link.joined[0]
        visit.close()
        assert (await link.end()).outcome is Outcome.CUT
        visit.close()
        visitor.close()
        await link.settled()
