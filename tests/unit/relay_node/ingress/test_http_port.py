"""The plain HTTP port on a real carrier: it redirects, within the limits of the public port, and serves nothing."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network

import pytest
from portway_relay.config import HttpListen, NodeConfig
from portway_relay.ingress.http_port import HttpPort
from portway_relay.ingress.plain_visitors import PlainVisitors
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.listener import finish
from portway_runtime.proxy_protocol import ProxyHeader, encode_v1
from portway_runtime.rates import AddressRate
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.front_door import HOST, Around
from portway_testkit.links.carrier_link import until
from portway_testkit.visitors.hellos import real_hello

Open = Callable[..., HttpPort]  # of changes to the node's configuration
ANY_PORT = Endpoint("127.0.0.1", 0)
HERE = Endpoint("198.51.100.1", 80)
REQUEST = f"GET /a?b HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


@pytest.fixture
async def open_port(around: Around, clock: ManualClock, node_config: Callable[..., NodeConfig]) -> AsyncIterator[Open]:
    ports: list[HttpPort] = []

    def make(**changes: object) -> HttpPort:
        config = node_config(**{"http_listen": ANY_PORT} | changes)
        limits = config.limits
        visitors = PlainVisitors(
            around.carrier, lambda: around.zones, lambda: 443, max_answers=limits.max_half_open, clock=clock
        )
        rate = AddressRate(limits.connections_per_second, limits.connection_burst, clock)
        ports.append(HttpPort(config, visitors, rate=rate, clock=clock))
        ports[-1].listen()
        return ports[-1]

    yield make
    for port in ports:
        await port.close()


async def connect(port: HttpPort, host: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert port.listening is not None
    return await asyncio.open_connection(host, port.listening.port)


async def answer(port: HttpPort, sent: bytes, host: str = "127.0.0.1") -> bytes:
    """Everything until the end; a reset is an end, too."""
    reader, writer = await connect(port, host)
    writer.write(sent)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_requests_are_redirected(open_port: Open, host: str) -> None:
    """Path and query are kept; on every address of the machine for IPv4 and IPv6."""
    port = open_port(http_listen=Endpoint("", 0))
    head = await answer(port, REQUEST, host)
    assert head.startswith(b"HTTP/1.1 308 ")
    assert f"\r\nLocation: https://{HOST}/a?b\r\n".encode() in head
    assert port.arrivals.accepted == 1
    assert not port.arrivals.rejected


@pytest.mark.parametrize("sent", [real_hello(HOST), b"SSH-2.0-x\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 9])
async def test_whoever_does_not_speak_http_is_closed_on(open_port: Open, sent: bytes) -> None:
    """At once, with nothing that it could take for an answer."""
    port = open_port()
    assert await answer(port, sent) == b""
    assert port.arrivals.rejected == {"not_http": 1}


async def test_a_proxy_header_is_told_of(open_port: Open, caplog: pytest.LogCaptureFixture) -> None:
    """As at the public port."""
    port = open_port()
    assert await answer(port, b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n" + REQUEST) == b""
    assert port.arrivals.rejected == {"proxy_header": 1}
    assert [record.__dict__["port"] for record in caplog.records] == ["plain HTTP"]


async def test_who_comes_too_fast_is_closed_on(open_port: Open, clock: ManualClock) -> None:
    """Beyond its burst an address is closed on unread, until time has passed."""
    port = open_port(limits={"connections_per_second": 1, "connection_burst": 1})
    assert await answer(port, REQUEST)
    assert await answer(port, REQUEST) == b""
    assert port.arrivals.rejected == {"rate": 1}
    clock.now += 1
    assert await answer(port, REQUEST)


async def test_requests_that_never_end_are_bounded(open_port: Open) -> None:
    """The oldest makes room for one that comes."""
    port = open_port(limits={"max_half_open": 2})
    waiting = [await connect(port) for _ in range(3)]
    await until(lambda: port.arrivals.accepted == 3)
    assert await waiting[0][0].read() == b""
    assert port.arrivals.half_open == 2
    assert port.arrivals.evicted == 1
    for _, writer in waiting:
        writer.transport.abort()


async def test_a_request_that_never_ends_is_dropped(open_port: Open) -> None:
    """After the time for a hello, wherever it stopped."""
    port = open_port(limits={"hello_time": 0.02})
    assert await answer(port, REQUEST[:-10]) == b""
    assert port.arrivals.half_open == 0


async def test_the_stop_waits_for_requests_that_come(open_port: Open) -> None:
    """Whoever was accepted is answered, whoever comes later refused; who says nothing is waited for until the port
    closes."""
    port = open_port()
    reader, writer = await connect(port)
    _, silent = await connect(port)
    await until(lambda: port.arrivals.half_open == 2)
    await finish(port.arrivals.listeners, within=0.1)
    heard = asyncio.ensure_future(port.arrivals.heard())
    writer.write(REQUEST)
    assert (await reader.read()).startswith(b"HTTP/1.1 308 ")
    with pytest.raises(ConnectionRefusedError):
        await connect(port)
    assert port.arrivals.half_open == 1
    assert not heard.done()
    await port.close()
    await heard
    assert port.arrivals.half_open == 0
    for one in (writer, silent):
        one.transport.abort()


async def test_an_address_that_was_asked_for_is_needed(open_port: Open) -> None:
    """The error names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = Endpoint("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ListenError, match=f"--http-listen: cannot listen on {at}"):
            open_port(http_listen=at)


async def test_an_address_that_nobody_asked_for_is_not_needed(
    open_port: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator is told, and the node goes on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr("portway_relay.config._HTTP_PORT", taken.getsockname()[1])
        with caplog.at_level(logging.WARNING):
            port = open_port(http_listen=HttpListen.DEFAULT, listen=Endpoint("127.0.0.1", 443))
    assert "plain HTTP is not redirected" in caplog.text
    assert "--http-listen off" in caplog.text
    assert port.listening is None
    assert port.arrivals.listeners == []


async def test_without_an_address_nothing_listens(open_port: Open) -> None:
    """Turned off, or beside a public port that is not 443."""
    assert open_port(http_listen=HttpListen.OFF).listening is None
    assert open_port(http_listen=HttpListen.DEFAULT).listening is None


async def test_behind_a_balancer_requests_are_the_visitors(open_port: Open) -> None:
    """Each of them has its rate; the balancer has none, and has to say whose a request is."""
    balancer = (ip_network("127.0.0.1"),)
    port = open_port(
        http_listen=Endpoint("::", 0),
        proxy_protocol_from=balancer,
        limits={"connections_per_second": 1, "connection_burst": 1},
    )
    one, other = (encode_v1(ProxyHeader(Endpoint(host, 5000), HERE)) for host in ("203.0.113.7", "203.0.113.8"))
    assert (await answer(port, one + REQUEST)).startswith(b"HTTP/1.1 308 ")
    assert await answer(port, one + REQUEST) == b""
    assert (await answer(port, other + REQUEST)).startswith(b"HTTP/1.1 308 ")
    assert await answer(port, REQUEST) == b""
    assert await answer(port, one + REQUEST, "::1") == b""
    assert port.arrivals.rejected == {"rate": 1, "no_proxy_header": 1, "proxy_header": 1}
    assert (port.arrivals.half_open, port.arrivals.accepted) == (0, 4)
