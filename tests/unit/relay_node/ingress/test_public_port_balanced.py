"""The public port behind load balancers: their headers count, their addresses do not."""

import asyncio
import ssl
from ipaddress import ip_network

import pytest
import trustme
from portway_proto.wire.limits import LINK_ALPN
from portway_relay.ingress.decision import Alert
from portway_relay.visits import VisitedName
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxy_protocol import ProxyHeader, encode_v1, encode_v2
from portway_testkit.fakes.front_door import GREETING, HOST, NODE, Around, FrontMaker
from portway_testkit.links.carrier_link import until
from portway_testkit.visitors.hellos import real_hello

# Where the balancer of these tests dials from; the others are visitors that come directly.
BALANCER = "127.0.0.9"
BALANCERS = (ip_network(BALANCER),)
VISITOR = Endpoint("203.0.113.7", 5000)
OTHER = Endpoint("2001:db8::7", 5000)
HERE = Endpoint("198.51.100.1", 443)
UNKNOWN_NAME = real_hello("localhost")

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def header(of: Endpoint = VISITOR) -> bytes:
    return encode_v2(ProxyHeader(of, HERE))


async def connect(port: int, sent: bytes, *, via: str = BALANCER) -> Wire:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(via, 0))
    writer.write(sent)
    return reader, writer


async def answer(port: int, sent: bytes, *, via: str = BALANCER) -> bytes:
    """Everything until the end, which may be a reset."""
    reader, writer = await connect(port, sent, via=via)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("encode", [encode_v1, encode_v2])
@pytest.mark.parametrize("visitor", [VISITOR, OTHER])
async def test_a_visitor_is_whom_the_balancer_says(
    open_front: FrontMaker, around: Around, authority: trustme.CA, encode: object, visitor: Endpoint
) -> None:
    """Of either family, in either version, and its ClientHello is parsed and its handshake made as of any other."""
    assert callable(encode)
    front = open_front(proxy_protocol_from=BALANCERS)
    reader, writer = await connect(front.address.listening.port, encode(ProxyHeader(visitor, HERE)))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    await writer.start_tls(context, server_hostname=HOST)
    assert await reader.read() == GREETING
    writer.close()
    await writer.wait_closed()
    ((peer, tunnel, name, _),) = around.visitors
    assert (peer, tunnel, name) == (visitor, around.tunnel, VisitedName(HOST, "fra"))
    assert not front.arrivals.rejected


async def test_header_and_hello_may_come_in_any_pieces(open_front: FrontMaker, around: Around) -> None:
    """What is peeked at begins behind the header, wherever the network has cut."""
    front = open_front(proxy_protocol_from=BALANCERS)
    data, start = header() + real_hello(HOST), len(header())
    for number, cut in enumerate((5, start - 1, start, start + 1, start + 7, len(data) - 1)):
        _, writer = await connect(front.address.listening.port, data[:cut])
        await until(lambda: front.half_open == 1)
        writer.write(data[cut:])
        await until(lambda: len(around.visitors) == number + 1)
        writer.transport.abort()
    assert {peer for peer, *_ in around.visitors} == {VISITOR}


async def test_clients_come_through_balancers_too(open_front: FrontMaker, around: Around) -> None:
    """Their lanes are told apart by name and ALPN, behind the header."""
    front = open_front(proxy_protocol_from=BALANCERS)
    local = Endpoint("127.0.0.1", 5000)  # the fakes look at the peer
    _, writer = await connect(front.address.listening.port, header(local) + real_hello(NODE, [LINK_ALPN]))
    await until(lambda: len(around.lanes) == 1)
    writer.transport.abort()


async def test_a_balancer_without_a_header_is_refused(open_front: FrontMaker, around: Around) -> None:
    """Counted under a reason of its own. Others need none."""
    front = open_front(proxy_protocol_from=BALANCERS)
    port = front.address.listening.port
    assert await answer(port, real_hello(HOST)) == b""
    assert await answer(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") == b""
    assert front.arrivals.rejected == {"no_proxy_header": 2}
    assert await answer(port, UNKNOWN_NAME, via="127.0.0.1") == Alert.UNRECOGNIZED_NAME.record
    assert (around.visitors, front.arrivals.accepted) == ([], 1)


async def test_a_forged_header_is_refused(open_front: FrontMaker, around: Around) -> None:
    """From whoever is no balancer, behind a balancer's header as well."""
    front = open_front(proxy_protocol_from=BALANCERS)
    port = front.address.listening.port
    assert await answer(port, header() + real_hello(HOST), via="127.0.0.1") == Alert.DECODE_ERROR.record
    assert await answer(port, header() + header(OTHER) + real_hello(HOST)) == Alert.DECODE_ERROR.record
    assert front.arrivals.rejected == {"proxy_header": 2}
    assert around.visitors == []


async def test_a_health_check_is_served_from_the_balancers_address(open_front: FrontMaker) -> None:
    """With LOCAL, with TLS behind it or nothing, and without any byte: none is a fault."""
    front = open_front(proxy_protocol_from=BALANCERS)
    port, local = front.address.listening.port, encode_v2(ProxyHeader(None, None))
    assert await answer(port, local + UNKNOWN_NAME) == Alert.UNRECOGNIZED_NAME.record
    for sent in (local, b""):
        _, writer = await connect(port, sent)
        await until(lambda: front.half_open == 1)
        writer.close()
        await until(lambda: front.half_open == 0)
    assert front.arrivals.rejected == {"unrecognized_name": 1}


async def test_rates_are_those_of_the_visitors(open_front: FrontMaker) -> None:
    """One that comes too fast is turned away, and no other of the same balancer; who waits for a header spends none."""
    front = open_front(proxy_protocol_from=BALANCERS, limits={"connections_per_second": 1, "connection_burst": 2})
    port = front.address.listening.port
    silent = [await connect(port, b"") for _ in range(5)]
    await until(lambda: front.half_open == 5)
    for _ in range(2):
        assert await answer(port, header() + UNKNOWN_NAME) == Alert.UNRECOGNIZED_NAME.record
    assert await answer(port, header() + UNKNOWN_NAME) == b""
    assert front.arrivals.rejected == {"unrecognized_name": 2, "rate": 1}
    for _ in range(2):
        assert await answer(port, header(OTHER) + UNKNOWN_NAME) == Alert.UNRECOGNIZED_NAME.record
    for _, writer in silent:
        writer.transport.abort()


async def test_half_open_connections_are_those_of_the_visitors(open_front: FrontMaker) -> None:
    """One that says nothing more than its header evicts its own, and none of another visitor's."""
    front = open_front(proxy_protocol_from=BALANCERS, limits={"max_half_open_per_address": 2})
    port = front.address.listening.port
    other = await connect(port, header(OTHER))
    await until(lambda: front.half_open == 1)
    silent = [await connect(port, header()) for _ in range(3)]
    await until(lambda: front.arrivals.evicted == 1)
    assert front.half_open == 3
    other[1].write(UNKNOWN_NAME)
    assert await other[0].read() == Alert.UNRECOGNIZED_NAME.record
    for _, writer in (other, *silent):
        writer.transport.abort()


async def test_stopping_waits_for_headers(open_front: FrontMaker, around: Around) -> None:
    """Who has connected and not sent its header yet is heard like who has not sent its hello."""
    front = open_front(proxy_protocol_from=BALANCERS)
    _, writer = await connect(front.address.listening.port, header()[:10])
    await until(lambda: front.half_open == 1)
    heard = asyncio.ensure_future(front.arrivals.heard())
    await asyncio.sleep(0)
    assert not heard.done()
    writer.write(header()[10:] + real_hello(HOST))
    await heard
    await until(lambda: len(around.visitors) == 1)
    writer.transport.abort()
