"""Visitors that a serving client does not connect: what the node gets back, and what the client is notified of."""

import asyncio

from portway_carrier.values import Outcome
from portway_proto.wire.frames import RefusalReason
from portway_testkit.links.carrier_link import OPENING, CarrierLink, closed, echo, local_server, stream_of, until, visit
from portway_testkit.processes.descriptors import no_more_descriptors
from portway_testkit.processes.ports import held_port


async def test_nobody_listening_hands_the_visitor_back(link: CarrierLink) -> None:
    """REFUSED hands the visitor back with everything it sent, to be finished or joined elsewhere."""
    with held_port() as held:
        port = held.getsockname()[1]
        link.serve_with(port)
        reader, writer = await visit(link.visitors())
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        end = await link.end()
    assert end.outcome is Outcome.REFUSED
    assert end.reason is RefusalReason.UNREACHABLE
    await until(lambda: bool(link.refused))
    reason, message = link.refused[0]
    assert reason is RefusalReason.UNREACHABLE
    assert all(f"{host}:{port}: " in message for host in ("127.0.0.1", "[::1]"))
    visitor = stream_of(end)
    assert (await visitor.first_bytes(2.0)).startswith(b"GET / ")
    async with local_server(echo) as again:
        link.serve_with(again)
        link.node.join(visitor, link.pool, link.ends[0][0].opening, link.ended)
        assert await reader.readexactly(18) == b"GET / HTTP/1.1\r\n\r\n"
        await closed(writer)
        await link.end(2)
    await link.settled()


async def test_first_bytes_are_waited_for(link: CarrierLink) -> None:
    """As many as are asked for, or all that come before the end or within the time; nothing is consumed."""
    _, writer = await visit(link.visitors())
    visitor = stream_of(await link.end())
    assert await visitor.first_bytes(0.01, 1) == b""
    writer.write(b"GE")
    assert await visitor.first_bytes(5.0, 1) == b"GE"
    assert await visitor.first_bytes(0.01, 3) == b"GE"
    waiting = asyncio.ensure_future(visitor.first_bytes(5.0, 5))
    for sent in (b"T", b" ", b"/"):
        await asyncio.sleep(0)
        assert not waiting.done()
        writer.write(sent)
    assert await waiting == b"GET /"
    assert await visitor.first_bytes(5.0, 5) == b"GET /"
    writer.close()
    assert await visitor.first_bytes(5.0, 6) == b"GET /"
    link.node.finish(visitor, b"")
    await closed(writer)
    await link.settled()


async def test_a_label_that_is_not_served_is_not_here(link: CarrierLink) -> None:
    """It may be at another node by now."""
    _, writer = await visit(link.visitors())
    end = await link.end()
    assert (end.outcome, end.reason) == (Outcome.REFUSED, RefusalReason.NOT_HERE)
    await until(lambda: [reason for reason, _ in link.refused] == [RefusalReason.NOT_HERE])
    link.node.finish(stream_of(end), b"")
    await closed(writer)
    await link.settled()


async def test_a_client_that_can_open_no_more_sockets_is_overloaded(link: CarrierLink) -> None:
    """Not UNREACHABLE: the local server may listen, and a visitor may reach it a moment later."""
    reader, writer = await visit(link.visitors())
    writer.write(b"hello")
    visitor = stream_of(await link.end())
    async with local_server(echo) as port:
        link.serve_with(port)
        with no_more_descriptors():
            link.node.join(visitor, link.pool, OPENING, link.ended)
            end = await link.end(2)
        assert (end.outcome, end.reason) == (Outcome.REFUSED, RefusalReason.OVERLOADED)
        await until(lambda: len(link.refused) == 2)
        assert link.refused[1] == (RefusalReason.OVERLOADED, f"127.0.0.1:{port}: Too many open files")
        link.node.join(stream_of(end), link.pool, OPENING, link.ended)
        assert await reader.readexactly(5) == b"hello"
        await closed(writer)
        await link.end(3)
    await link.settled()
