"""Streams and lanes through an HTTP proxy, spoken to over TLS or not."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trustme
from portway_carrier.contract import Carrier, Stream
from portway_carrier.errors import CarrierError, ConnectFailed, HandshakeFailed
from portway_carrier.values import ClientTls, DialTarget, Limits, ServerTls, SpareSizes
from portway_proto.wire.frames import FrameType
from portway_proto.wire.lane import Side
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxies import Proxy, parse_proxy
from portway_testkit.links.carrier_link import CarrierMaker, Recorder, listener, until
from portway_testkit.links.connect_proxy import ConnectProxy

pytestmark = pytest.mark.shares_sockets

Connect = Callable[[Carrier], Stream]
Accept = Callable[[Carrier], Awaitable[Stream]]
LARGE = bytes(range(256)) * 50
CLOCK = 0.002  # seconds: uvloop's clock is one of whole milliseconds, and is read at both ends of a round trip


@pytest.fixture(params=["http", "https"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectProxy]:
    context = None
    if request.param == "https":
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        context.set_ecdh_curve("secp384r1")  # another group than that of a client's key share
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with ConnectProxy(context) as proxy:
        proxy.hosts["node.test"] = "127.0.0.1"
        yield proxy


@pytest.fixture
def via(proxy: ConnectProxy) -> Proxy:
    return parse_proxy(proxy.url, "https_proxy")


@pytest.fixture
def node() -> Iterator[socket.socket]:
    with listener() as node:
        yield node


def address(node: socket.socket) -> Endpoint:
    return Endpoint("node.test", node.getsockname()[1])


@pytest.fixture
def connect(node: socket.socket, via: Proxy, client_tls: ClientTls) -> Connect:
    """The client's end of a connection to the node through the proxy."""
    return lambda carrier: carrier.connect(address(node), client_tls, via)


@pytest.fixture
def accept(node: socket.socket, server_tls: ServerTls) -> Accept:
    """The node's end of the next connection."""

    async def accepted(carrier: Carrier) -> Stream:
        sock, _ = await asyncio.get_running_loop().sock_accept(node)
        return carrier.accept(sock, server_tls)

    return accepted


async def test_bytes_pass_both_ways(
    make_carrier: CarrierMaker, node: socket.socket, proxy: ConnectProxy, connect: Connect, accept: Accept
) -> None:
    """More than any buffer on the way holds. The round trip is that of TLS, to the node and back."""
    proxy.delay = 0.05
    carrier = make_carrier()
    near = connect(carrier)
    far = await accept(carrier)
    handshake = await near.ready()
    await far.ready()
    assert handshake.round_trip is not None
    assert 0.1 - CLOCK <= handshake.round_trip <= handshake.took
    assert near.peer == address(node)
    proxy.delay = 0.0
    got = Recorder(), Recorder()
    lanes = carrier.lane(near, Side.ACCEPTOR, got[0]), carrier.lane(far, Side.OPENER, got[1])
    for lane in lanes:
        for _ in range(100):
            lane.send(FrameType.MOVED, LARGE)
    for one in got:
        await one.until(lambda: len(one.frames) == 100)
        assert {payload for _, payload in one.frames} == {LARGE}
    lanes[0].close()
    await got[1].until(lambda: bool(got[1].closed))
    await until(lambda: proxy.connections == 0)


async def test_a_pool_dials_through_it(
    make_carrier: CarrierMaker,
    node: socket.socket,
    proxy: ConnectProxy,
    via: Proxy,
    client_tls: ClientTls,
    accept: Accept,
) -> None:
    """And says what the proxy has against it."""
    carrier = make_carrier()
    lost: list[CarrierError] = []
    target = DialTarget(address(node), client_tls, (FrameType.PARK, b""), via)
    pool = carrier.dialling_pool(target, Side.ACCEPTOR, SpareSizes(quiet=2), lost.append)
    streams = [await accept(carrier) for _ in range(2)]
    await until(lambda: pool.counts.idle == 2)
    assert proxy.asked == [str(address(node))] * 2
    proxy.answer = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
    for stream in streams:
        stream.abort()
    refused: list[CarrierError] = []

    def told() -> bool:
        """The loss of a lane may come after the first dial that the proxy refuses."""
        refused[:] = [error for error in lost if isinstance(error, ConnectFailed) and error.proxy]
        return bool(refused)

    await until(told)
    assert "cannot reach node.test" in str(refused[0])
    pool.close()


async def test_a_dial_that_is_given_up_leaves_nothing(
    make_carrier: CarrierMaker, node: socket.socket, proxy: ConnectProxy, connect: Connect
) -> None:
    """While the proxy is silent, and while the node is."""
    carrier = make_carrier()
    for silent in (True, False):
        proxy.silent = silent
        before = len(proxy.heads)
        stream = connect(carrier)
        await until(lambda: len(proxy.heads) > before)
        if not silent:
            sock, _ = await asyncio.get_running_loop().sock_accept(node)
            sock.close()
        stream.abort()
        with pytest.raises(CarrierError):
            await stream.ready()
        await until(lambda: proxy.connections == 0)


async def test_a_silent_proxy_is_given_up(make_carrier: CarrierMaker, proxy: ConnectProxy, connect: Connect) -> None:
    proxy.silent = True
    stream = connect(make_carrier(Limits(handshake=0.3)))
    with pytest.raises(ConnectFailed, match=r"no connection within 0\.3 s, through the proxy 127") as raised:
        await stream.ready()
    assert raised.value.proxy


async def test_a_node_that_is_not_trusted(
    make_carrier: CarrierMaker, node: socket.socket, via: Proxy, accept: Accept
) -> None:
    """As when a proxy opens TLS to look inside."""
    carrier = make_carrier()
    other = ClientTls(trustme.CA().cert_pem.bytes(), "node.test")
    stream = carrier.connect(address(node), other, via)
    await accept(carrier)
    with pytest.raises(HandshakeFailed, match=r"not trusted: .*, through the proxy") as raised:
        await stream.ready()
    assert raised.value.untrusted


async def test_closing_leaves_nothing(
    make_carrier: CarrierMaker, node: socket.socket, proxy: ConnectProxy, connect: Connect, accept: Accept
) -> None:
    carrier, other = make_carrier(), make_carrier()
    established = connect(carrier)
    await accept(other)
    await established.ready()
    connect(carrier)
    silent, _ = await asyncio.get_running_loop().sock_accept(node)
    with silent:
        await carrier.close()
    await other.close()
    await until(lambda: proxy.connections == 0)
