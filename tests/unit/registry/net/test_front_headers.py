"""Whose connection a port takes one for: PROXY headers of nodes, of load balancers, and of anybody else."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from portway_registry.cluster import now_ms
from portway_registry.net.node_headers import NodeHeaders
from portway_runtime.endpoints import Endpoint
from portway_runtime.node_headers import NONCE_SIZE, write_header
from portway_runtime.proxy_protocol import ProxyHeader, encode_v1, encode_v2
from portway_testkit.links.carrier_link import until
from portway_testkit.links.opened_front import HELLO, closed, opened

KEY = b"k" * 32


async def test_a_proxy_header_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """A load balancer in front sends it, and no call would arrive: the log says why."""
    async with opened() as port:
        for _ in range(2):
            wire = await port.connect("127.0.0.1")
            wire[1].write(b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 7400\r\n" + HELLO)
            await closed(wire)
        assert port.front.ended()["proxy header"] == 2
    told = [record.__dict__ for record in caplog.records]
    assert {(one["port"], one["peer"]) for one in told} == {("listen", "127.0.0.1")}


def of_node(source: Endpoint, key: bytes = KEY, replica: str = "r-1") -> bytes:
    """The header that fra-1 writes now."""
    at = Endpoint("198.51.100.1", 443)
    return write_header(key, "fra-1", replica, source, at, now_ms(), secrets.token_bytes(NONCE_SIZE))


@pytest.mark.parametrize("source", [Endpoint("203.0.113.9", 50_000), Endpoint("2001:db8::9", 50_000)])
@pytest.mark.parametrize("pieces", [1, 7])
async def test_what_a_node_passes_on_comes_from_where_it_says(source: Endpoint, pieces: int) -> None:
    """The server behind gets the ClientHello alone, however many pieces it came in."""
    async with opened(headers=NodeHeaders("r-1", lambda node: [KEY], now_ms)) as port:
        wire = await port.connect()
        whole = of_node(source) + HELLO
        size = -(-len(whole) // pieces)
        for start in range(0, len(whole), size):
            wire[1].write(whole[start : start + size])
            await wire[1].drain()
            await asyncio.sleep(0.002)
        assert await wire[0].readexactly(len(HELLO)) == HELLO
        connection = await port.connection()
        assert (connection.peer, connection.ingress) == (source, "fra-1")
        assert str(connection.address) == source.host
        wire[1].close()


async def test_a_node_s_header_is_refused_and_counted_when_it_is_not_believed() -> None:
    """Forged, for another replica, replayed, or of a load balancer. Who has none is served as before."""
    source = Endpoint("203.0.113.9", 50_000)
    async with opened(headers=NodeHeaders("r-1", lambda node: [KEY], now_ms)) as port:
        again = of_node(source)
        first = await port.connect()
        first[1].write(again + HELLO)
        await port.connection()
        for data in (
            again,
            of_node(source, b"x" * 32),
            of_node(source, replica="r-2"),
            encode_v2(ProxyHeader(source, source)),
        ):
            wire = await port.connect()
            wire[1].write(data + HELLO)
            await closed(wire)
        assert {reason: number for reason, number in port.front.ended().items() if number} == {
            "proxy header replayed": 1,
            "proxy header forged": 2,
            "proxy header": 1,
        }
        assert len(port.names) == 1
        direct = await port.connect()
        direct[1].write(HELLO)
        assert await direct[0].readexactly(len(HELLO)) == HELLO
        assert (await port.connection()).address == ip_address("127.0.0.1")
        for each in (first, direct):
            each[1].close()


async def test_a_port_that_no_node_passes_on_to_believes_no_header() -> None:
    """Such as that of operators, or of nodes."""
    async with opened() as port:
        wire = await port.connect()
        wire[1].write(of_node(Endpoint("203.0.113.9", 50_000)) + HELLO)
        await closed(wire)
        assert port.names == []
        assert port.front.ended()["proxy header"] == 1


@pytest.mark.parametrize("encode", [encode_v1, encode_v2])
async def test_behind_a_balancer_a_connection_is_its_clients(encode: Callable[[ProxyHeader], bytes]) -> None:
    """For limits and for GeoIP: the balancer has to say whose it is, and gRPC sees nothing of that."""
    header = ProxyHeader(Endpoint("203.0.113.7", 5000), Endpoint("198.51.100.1", 443))
    async with opened(balancers=[ip_network("127.0.0.1")]) as port:
        wire = await port.connect()
        for piece in (encode(header)[:9], encode(header)[9:] + HELLO[:3], HELLO[3:]):
            wire[1].write(piece)
            await asyncio.sleep(0.01)
        assert await wire[0].readexactly(len(HELLO)) == HELLO
        connection = await port.connection()
        assert connection.peer == header.source
        assert str(connection.address) == "203.0.113.7"
        without = await port.connect()
        without[1].write(HELLO)
        await closed(without)
        assert port.front.ended() == Counter({"no proxy header": 1})
        silent = await port.connect()
        await until(lambda: port.front.connections()["hello awaited"] == 1)
        silent[1].transport.abort()
        wire[1].close()


async def test_nobody_else_is_believed() -> None:
    """A header of whoever is no balancer is refused as without any."""
    header = encode_v1(ProxyHeader(Endpoint("203.0.113.7", 5000), Endpoint("198.51.100.1", 443)))
    async with opened(balancers=[ip_network("192.0.2.0/24")]) as port:
        wire = await port.connect()
        wire[1].write(header + HELLO)
        await closed(wire)
        assert port.names == []
        assert port.front.ended() == Counter({"proxy header": 1})
