"""PROXY headers to local servers: what a connection begins with, for visitors of every kind and over every way."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace

import pytest
from portway_carrier.values import LocalService, Outcome, ProxyHeaderForm, ServerTls
from portway_proto.wire.frames import FrameType, Opening, VisitKind, encode_frame, encode_number, encode_open
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxy_protocol import Parsed, ProxyHeader, parse, tls_tlvs
from portway_testkit.links.carrier_link import (
    LABEL,
    OPENING,
    CarrierLink,
    LinkMaker,
    RawOpenerMaker,
    closed,
    local_server,
    relayed,
    until,
    visit,
)

FORM = ProxyHeaderForm(2, tls_port=443, raw_port=20_000)
NAME = "abcdefghijklmnop.fra.example.com"
NAMED = replace(OPENING, server_name=NAME)
RAW = replace(OPENING, kind=VisitKind.RAW)
VISITOR = Endpoint(OPENING.visitor_host, OPENING.visitor_port)
V6 = Opening(LABEL, "2001:db8::7", 4711, VisitKind.RAW)


class Server:
    """A local server that reads a header, greets, answers with what follows in capitals, and keeps the headers."""

    def __init__(self) -> None:
        self.headers: list[ProxyHeader] = []
        self.received: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while not isinstance(found := parse(data), Parsed):
            more = await reader.read(1000)
            assert more, f"it ended after {data!r}"
            data += more
        self.headers.append(found.header)
        writer.write(b"ready\r\n")
        data = data[found.length :]
        while data or not reader.at_eof():
            if data:
                writer.write(data.upper())
                self.received.append(data)
            data = await reader.read(1000)


def serve(link: CarrierLink, port: int, form: ProxyHeaderForm = FORM) -> None:
    link.table[LABEL] = LocalService(port, None, form)


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert await reader.readline() == b"ready\r\n"
    writer.write(b"hello\n")
    assert await reader.readline() == b"HELLO\n"
    await closed(writer)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("alpn", [None, "http/1.1"])
async def test_a_visitor_over_tls(
    link: CarrierLink,
    server_tls: ServerTls,
    trusting_only: Callable[[ssl.TLSVersion], ssl.SSLContext],
    version: ssl.TLSVersion,
    alpn: str | None,
) -> None:
    """Its address and port, the tunnel's port, and what its handshake came to; then its bytes."""
    server, context = Server(), trusting_only(version)
    context.set_alpn_protocols(["http/1.1"])
    async with local_server(server) as port:
        serve(link, port)
        at = link.visitors(replace(server_tls, alpn=alpn), NAMED)
        await exchange(*await asyncio.open_connection(at.host, at.port, ssl=context, server_hostname="node.test"))
        await link.end()
    told = {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]
    tlvs = tls_tlvs(version=told, server_name=NAME, alpn=alpn or "")
    assert server.headers == [ProxyHeader(VISITOR, Endpoint("0.0.0.0", 443), tlvs)]
    await link.settled()


@pytest.mark.parametrize(
    ("opening", "expected"),
    [
        (RAW, ProxyHeader(VISITOR, Endpoint("0.0.0.0", 20_000))),
        (V6, ProxyHeader(Endpoint("2001:db8::7", 4711), Endpoint("::", 20_000))),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
async def test_a_visitor_of_a_raw_port(
    link: CarrierLink, opening: Opening, expected: ProxyHeader, version: int
) -> None:
    """Of either family and in either version: nothing is said of TLS."""
    server = Server()
    async with local_server(server) as port:
        serve(link, port, replace(FORM, version=version))
        await exchange(*await visit(link.visitors(None, opening)))
        await link.end()
    assert server.headers == [expected]
    await link.settled()


async def test_version_1_says_nothing_of_tls(
    link: CarrierLink, server_tls: ServerTls, trusting: ssl.SSLContext
) -> None:
    """It is a line of text, with the port that TLS visitors connect to."""
    server = Server()
    async with local_server(server) as port:
        serve(link, port, replace(FORM, version=1))
        at = link.visitors(server_tls, NAMED)
        await exchange(*await asyncio.open_connection(at.host, at.port, ssl=trusting, server_hostname="node.test"))
        await link.end()
    assert server.headers == [ProxyHeader(VISITOR, Endpoint("0.0.0.0", 443))]


async def test_a_visitor_that_entered_at_another_node(
    make_link: LinkMaker, server_tls: ServerTls, trusting: ssl.SSLContext
) -> None:
    """What the ingress node says is passed on unchanged."""
    server, ingress, home = Server(), await make_link(), await make_link()
    await relayed(ingress, home)
    async with local_server(server) as port:
        serve(home, port)
        at = ingress.visitors(server_tls, NAMED)
        await exchange(*await asyncio.open_connection(at.host, at.port, ssl=trusting, server_hostname="node.test"))
        await home.end()
    tlvs = tls_tlvs(version="TLSv1.3", server_name=NAME, alpn="")
    assert server.headers == [ProxyHeader(VISITOR, Endpoint("0.0.0.0", 443), tlvs)]


async def test_a_node_of_an_earlier_release(raw_opener: RawOpenerMaker) -> None:
    """It does not tell of TLS, and so the local server is told the address alone."""
    server = Server()
    async with local_server(server) as port:
        lane = await raw_opener(port, form=FORM)
        lane.send(encode_open(1, OPENING), encode_frame(FrameType.DATA, b"hello\n"))
        assert (await lane.frame())[0] == FrameType.OPENED
        await until(lambda: server.received == [b"hello\n"])
        lane.writer.transport.abort()
    assert server.headers == [ProxyHeader(VISITOR, Endpoint("0.0.0.0", 443))]


async def test_a_visitor_that_left_before_the_local_server_was_reached(raw_opener: RawOpenerMaker) -> None:
    """What it sent is still delivered, and so is whose it was."""
    server = Server()
    async with local_server(server) as port:
        lane = await raw_opener(port, form=FORM)
        lane.send(
            encode_open(1, OPENING),
            encode_frame(FrameType.DATA, b"last words"),
            encode_number(FrameType.END, 1),
            encode_number(FrameType.RESET, 1),
        )
        await until(lambda: server.received == [b"last words"])
        lane.writer.transport.abort()
    assert server.headers == [ProxyHeader(VISITOR, Endpoint("0.0.0.0", 443))]


async def test_its_bytes_are_not_the_visitors(link: CarrierLink) -> None:
    """The visit's counters, and those of the carrier, are the visitor's bytes alone."""
    server = Server()
    async with local_server(server) as port:
        serve(link, port)
        await exchange(*await visit(link.visitors(None, RAW)))
        assert (await link.end()).outcome is Outcome.DONE
    await link.settled()
    assert (link.joined[0].bytes_in, link.joined[0].bytes_out) == (6, 13)
    assert (link.client.counters.bytes_in, link.client.counters.bytes_out) == (6, 13)
    assert len(server.headers) == 1


async def test_without_the_option_nothing_comes_before_the_visitors_bytes(link: CarrierLink) -> None:
    """A header is garbage to a server that does not expect one."""
    received: list[bytes] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())

    async with local_server(keep) as port:
        link.serve_with(port)
        _, writer = await visit(link.visitors(None, RAW))
        writer.write(b"hello")
        await closed(writer)
        await link.end()
    assert received == [b"hello"]
