"""The bytes of visits."""

import asyncio
import hashlib

import pytest
import trustme
from portway_carrier.values import Limits, Outcome, PoolLimits, ServerTls, SpareSizes
from portway_proto.wire.frames import RefusalReason
from portway_testkit.links.carrier_link import (
    CarrierLink,
    LinkMaker,
    broken_off,
    closed,
    echo,
    local_server,
    reset,
    stream_of,
    transport_of,
    until_still,
    visit,
)


async def test_bytes_go_both_ways(link: CarrierLink) -> None:
    """What the visitor sends reaches the local server, and its answer the visitor."""
    async with local_server(echo) as port:
        link.serve_with(port)
        reader, writer = await visit(link.visitors())
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        await closed(writer)
        await link.end()
    await link.settled()


async def test_half_close_keeps_the_reply(link: CarrierLink) -> None:
    """A visitor that ends its direction still gets the whole reply."""
    received: list[bytes] = []

    async def reply_after_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.write(b"r" * 1_000_000)
        await writer.drain()

    async with local_server(reply_after_end) as port:
        link.serve_with(port)
        reader, writer = await visit(link.visitors())
        writer.write(b"request")
        writer.write_eof()
        assert await reader.read() == b"r" * 1_000_000
        assert received == [b"request"]
        assert (await link.end()).outcome is Outcome.DONE
        await closed(writer)
    await link.settled()


async def test_a_server_that_speaks_first_is_heard(link: CarrierLink) -> None:
    """OPEN does not wait for the visitor's first bytes."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        await reader.read()

    async with local_server(greet) as port:
        link.serve_with(port)
        reader, writer = await visit(link.visitors())
        assert await reader.readline() == b"220 ready\r\n"
        await closed(writer)
        await link.end()


async def test_tls_visitors_are_served(link: CarrierLink, server_tls: ServerTls, authority: trustme.CA) -> None:
    """TLS ends in the carrier; a stream is joined before its handshake."""
    import ssl

    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    async with local_server(echo) as port:
        link.serve_with(port)
        address = link.visitors(server_tls)
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=context, server_hostname="node.test"
        )
        writer.write(b"x" * 300_000)
        assert await reader.readexactly(300_000) == b"x" * 300_000
        writer.close()
        await writer.wait_closed()
        assert (await link.end()).outcome is Outcome.DONE
    await link.settled()


async def test_bulk_arrives_unchanged(link: CarrierLink) -> None:
    """32 MiB each way at once, compared by hash."""
    size = 32 << 20
    block = bytes(range(256)) * 256
    sums: list[str] = []

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def receive() -> None:
            digest, left = hashlib.sha256(), size
            while left and (data := await reader.read(1 << 18)):
                digest.update(data)
                left -= len(data)
            sums.append(digest.hexdigest())

        receiving = asyncio.ensure_future(receive())
        for _ in range(size // len(block)):
            writer.write(block)
            await writer.drain()
        writer.write_eof()
        await receiving

    async with local_server(sink) as port:
        link.serve_with(port)
        reader, writer = await visit(link.visitors())

        async def send() -> None:
            for _ in range(size // len(block)):
                writer.write(block)
                await writer.drain()
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        digest = hashlib.sha256()
        while data := await reader.read(1 << 18):
            digest.update(data)
        await sending
        expected = hashlib.sha256(block * (size // len(block))).hexdigest()
        assert digest.hexdigest() == expected
        await closed(writer)
        await link.end()
        assert sums == [expected]
        assert link.ends[0][0].bytes_in == size
        assert link.ends[0][0].bytes_out == size


async def test_finish_writes_last_bytes_and_closes(link: CarrierLink) -> None:
    """A refused visitor gets the page it is finished with, whole, then end of file."""
    link.table.clear()
    reader, writer = await visit(link.visitors())
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    end = await link.end()
    assert end.reason is RefusalReason.NOT_HERE
    link.node.finish(stream_of(end), b"page")
    assert await reader.read() == b"page"
    await closed(writer)


@pytest.mark.parametrize("who", ["visitor", "server"])
async def test_a_reset_travels(link: CarrierLink, who: str) -> None:
    """A reset by one side reaches the other, which sees no orderly end. The lanes are used again."""
    release = asyncio.Event()

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        writer.write(b"ready")
        if who == "server":
            await writer.drain()
            await release.wait()
            reset(writer)
        else:
            assert await broken_off(reader) == b""
            release.set()

    async with local_server(break_off) as port:
        link.serve_with(port)
        reader, writer = await visit(link.visitors())
        writer.write(b"hello")
        await reader.readexactly(5)
        if who == "server":
            release.set()
            assert await broken_off(reader) == b""
        else:
            reset(writer)
            await release.wait()
        await closed(writer)
        await link.end()
    await link.settled()
    assert link.pool.counts.idle >= 2


async def test_one_slow_reader_does_not_slow_another(make_link: LinkMaker) -> None:
    """A visitor that stops reading pauses only its own visit, in bounded memory."""
    link = await make_link(Limits(high_water=64 * 1024))
    written = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        if await reader.readexactly(4) == b"slow":
            while True:
                writer.write(b"s" * 65536)
                written += 65536
                await writer.drain()
        for _ in range(256):
            writer.write(b"f" * 65536)
            await writer.drain()

    async with local_server(endless) as port:
        link.serve_with(port)
        address = link.visitors()
        _, slow = await visit(address)
        slow.write(b"slow")
        transport_of(slow).pause_reading()
        await until_still(lambda: written)
        before = written
        reader, fast = await visit(address)
        fast.write(b"fast")
        total = 0
        while data := await reader.read(1 << 20):
            total += len(data)
        assert total == 256 * 65536
        assert written == before
        # It is read again from a quarter of the high-water mark on; the kernel may have taken some since it was full.
        assert 16 * 1024 < link.joined[0].buffered < 1024 * 1024
        assert link.joined[1].buffered == 0
        slow.transport.abort()
        await closed(fast)
        await link.end(2)
    await link.settled()


async def test_a_lane_used_again_carries_nothing_of_the_visit_before(make_link: LinkMaker) -> None:
    """No byte for a visitor that resets within a response reaches the next one on the same lane."""
    link = await make_link(sizes=SpareSizes(quiet=1, busy=1, lanes=1), pool_limits=PoolLimits(lanes=1))
    first = True

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal first
        await reader.readexactly(1)
        if first:
            first = False
            while True:
                writer.write(b"old" * 20000)
                await writer.drain()
        writer.write(b"new")
        await writer.drain()

    async with local_server(talk) as port:
        link.serve_with(port)
        address = link.visitors()
        reader, writer = await visit(address)
        writer.write(b"?")
        await reader.readexactly(100_000)
        writer.transport.abort()
        for number in range(2, 8):
            reader, writer = await visit(address)
            writer.write(b"?")
            assert await reader.read() == b"new"
            await closed(writer)
            await link.end(number)
    assert len(link.lanes) == 2, "one control lane and one data lane served them all"


async def test_two_hundred_visitors_at_once_get_lanes(link: CarrierLink) -> None:
    """Visitors that find no idle lane wait for the WANT to be answered."""
    async with local_server(echo) as port:
        link.serve_with(port)
        address = link.visitors()

        async def one(number: int) -> None:
            reader, writer = await visit(address)
            text = b"%06d" % number
            writer.write(text)
            assert await reader.readexactly(6) == text
            await closed(writer)

        await asyncio.gather(*(one(number) for number in range(200)))
        await link.end(200)
    await link.settled()


async def test_no_lane_hands_the_visitor_back(make_link: LinkMaker) -> None:
    """When no lane comes within the limit the visitor is handed back."""
    link = await make_link(sizes=SpareSizes(quiet=1, busy=1, lanes=1), pool_limits=PoolLimits(lanes=1, wait=0.3))
    async with local_server(echo) as port:
        link.serve_with(port)
        address = link.visitors()
        reader, writer = await visit(address)
        writer.write(b"x")
        await reader.readexactly(1)
        second_reader, second = await visit(address)
        end = await link.end()
        assert end.outcome is Outcome.NO_LANE
        stream_of(end).abort()
        assert await broken_off(second_reader) == b""
        await closed(second)
        await closed(writer)
        await link.end(2)


async def test_a_cut_visit_ends_for_both(link: CarrierLink) -> None:
    """cut() resets visitor and local server and reports CUT."""
    gone = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        assert await broken_off(reader) == b""
        gone.set()

    async with local_server(wait) as port:
        link.serve_with(port)
        reader, writer = await visit(link.visitors())
        await reader.readexactly(1)
        link.joined[0].cut()
        assert await broken_off(reader) == b""
        await gone.wait()
        assert (await link.end()).outcome is Outcome.CUT
        await closed(writer)
    await link.settled()


async def test_the_local_server_is_found_on_ipv6(link: CarrierLink) -> None:
    """127.0.0.1 is tried first, then ::1."""
    async with local_server(echo, "::1") as port:
        link.serve_with(port)
        reader, writer = await visit(link.visitors())
        writer.write(b"six")
        assert await reader.readexactly(3) == b"six"
        await closed(writer)
        await link.end()
