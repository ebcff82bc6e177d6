"""portway_runtime.balancers: whose headers are believed, on real connections, and what becomes of the others."""

import asyncio
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from portway_runtime import balancers as module
from portway_runtime.balancers import BalancedConnections, Balancers, Network, parse_network
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxy_protocol import MAX_V1, MAX_V2, ProxyHeader, encode_v1, encode_v2
from portway_testkit.links.carrier_link import until
from portway_testkit.waiting import PATIENCE

BALANCER = Endpoint("10.1.2.3", 4000)
STRANGER = Endpoint("192.0.2.9", 4000)
VISITOR = Endpoint("203.0.113.7", 5000)
HEADER = ProxyHeader(VISITOR, Endpoint("198.51.100.1", 443))
V1, V2 = encode_v1(HEADER), encode_v2(HEADER)
HELLO = b"\x16\x03\x01\x00\x05hello"


class Door:
    """The connections of a port: those that were handed on, with what they begin with, and why others were refused."""

    def __init__(self, *networks: str, capacity: int = 10, time_limit: float = 3600.0, opaque: bool = False) -> None:
        self.accepted: list[tuple[Endpoint, bytes]] = []
        self.refused: Counter[str] = Counter()
        self.sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.connections = BalancedConnections(
            "public",
            [ip_network(network) for network in networks],
            time_limit=time_limit,
            capacity=capacity,
            clock=time.monotonic,
            refused=lambda reason: self.refused.update([reason]),
            opaque=opaque,
        )

    def connect(self, data: bytes = b"", peer: Endpoint = BALANCER) -> socket.socket:
        """A connection of this peer, which has sent these bytes."""
        theirs = socket.create_connection(self._server.getsockname())
        ours, _ = self._server.accept()
        ours.setblocking(False)
        self.sockets += [theirs, ours]
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if data:
            theirs.sendall(data)
            assert select.select([ours], [], [], PATIENCE)[0]
        self.connections.add(ours, peer, self._accept)
        return theirs

    def _accept(self, sock: socket.socket, peer: Endpoint) -> None:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        try:
            data = sock.recv(100, socket.MSG_PEEK)
        except BlockingIOError:
            data = b""
        self.accepted.append((peer, data))

    def close(self) -> None:
        self.connections.close()
        for sock in (*self.sockets, self._server):
            sock.close()


class Doors:
    """Makes doors; they are closed after the test."""

    def __init__(self) -> None:
        self.made: list[Door] = []

    def __call__(self, *networks: str, capacity: int = 10, time_limit: float = 3600.0, opaque: bool = False) -> Door:
        self.made.append(Door(*networks, capacity=capacity, time_limit=time_limit, opaque=opaque))
        return self.made[-1]


@pytest.fixture
def open_door() -> Iterator[Doors]:
    doors = Doors()
    yield doors
    for door in doors.made:
        door.close()


def closed(sock: socket.socket) -> bool:
    """Whether the other end has closed it, or reset it."""
    sock.settimeout(PATIENCE)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_a_header_says_whose_connection_it_is(open_door: Doors, header: bytes) -> None:
    """It is consumed, and what follows is not."""
    door = open_door("10.0.0.0/8")
    door.connect(header + HELLO)
    await until(lambda: door.accepted == [(VISITOR, HELLO)])
    assert (len(door.connections), door.refused) == (0, {})


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_a_header_may_come_in_pieces(open_door: Doors, header: bytes) -> None:
    """Byte by byte, as from a balancer that is slow; the hello in one piece with the last byte, or after it."""
    door = open_door("10.0.0.0/8")
    theirs = door.connect()
    for byte in header[:-1]:
        theirs.send(bytes([byte]))
        await asyncio.sleep(0.001)
        assert (door.accepted, len(door.connections)) == ([], 1)
    theirs.sendall(header[-1:] + HELLO)
    await until(lambda: door.accepted == [(VISITOR, HELLO)])
    await door.connections.over()
    door.connect(header)
    await until(lambda: door.accepted[1:] == [(VISITOR, b"")])


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", encode_v2(ProxyHeader(None, None))], ids=["unknown", "local"])
async def test_a_health_check_is_the_balancers_own(open_door: Doors, header: bytes) -> None:
    """It says of nobody else, and is served like a visitor from there."""
    door = open_door("10.0.0.0/8")
    door.connect(header + HELLO)
    await until(lambda: door.accepted == [(BALANCER, HELLO)])


@pytest.mark.parametrize(
    "data",
    [
        HELLO,
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 5000 443443\r\n",
        b"PROXY TCP4 " + b"1" * MAX_V1,
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + MAX_V2.to_bytes(2),
        V2[:12] + b"\x31" + V2[13:],
    ],
)
async def test_a_balancer_without_a_good_header_is_refused(
    open_door: Doors, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is named sends a header: without one, nobody would know whose the connection is. The log says it in the
    same words each time, which is one fact there."""
    door = open_door("10.0.0.0/8")
    first, second = door.connect(data), door.connect(data, Endpoint(BALANCER.host, 4001))
    assert closed(first)
    assert closed(second)
    assert (door.accepted, door.refused) == ([], {"no_proxy_header": 2})
    told = {(one.__dict__["port"], one.__dict__["peer"], one.message) for one in caplog.records}
    assert len(caplog.records) == 2
    ((port, peer, message),) = told
    assert (port, peer) == ("public", BALANCER.host)
    assert "proxy_protocol_from" in message


async def test_a_header_that_does_not_come_is_not_waited_for(
    open_door: Doors, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor one that comes too slowly, or that ends before. Probes of a balancer that only connect are no fault."""
    door = open_door("10.0.0.0/8", time_limit=0.05)
    silent, slow, left = door.connect(), door.connect(V2[:20]), door.connect(V1[:20])
    left.shutdown(socket.SHUT_WR)
    await door.connections.over()
    assert all(closed(sock) for sock in (silent, slow, left))
    assert (door.accepted, door.refused, caplog.records) == ([], {}, [])


async def test_others_do_not_wait(open_door: Doors) -> None:
    """Whoever is no balancer is handed on at once, and what it sends is looked at by nobody here."""
    door = open_door("10.0.0.0/8")
    door.connect(V1 + HELLO, STRANGER)
    door.connect(b"", STRANGER)
    assert door.accepted == [(STRANGER, V1 + HELLO), (STRANGER, b"")]


async def test_without_balancers_all_are_others(open_door: Doors) -> None:
    """As with every port by default, an opaque one too."""
    for door in (open_door(), open_door(opaque=True)):
        door.connect(V1, BALANCER)
        assert door.accepted == [(BALANCER, V1)]


async def test_one_balancer_is_many_visitors(open_door: Doors) -> None:
    """It may use all places for connections that wait; then its oldest one makes room, as it has sent nothing yet."""
    door = open_door("10.0.0.0/8", capacity=3)
    waiting = [door.connect() for _ in range(4)]
    assert closed(waiting[0])
    assert (len(door.connections), door.connections.evicted) == (3, 1)
    for sock in waiting[1:]:
        sock.sendall(V2)
    await until(lambda: door.accepted == [(VISITOR, b"")] * 3)


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_a_forged_header_is_refused_where_nobody_else_would(
    open_door: Doors, header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """At a raw port it would reach the local server."""
    door = open_door("10.0.0.0/8", opaque=True)
    assert closed(door.connect(header + HELLO, STRANGER))
    slow = door.connect(header[:3], STRANGER)
    slow.sendall(header[3:])
    await until(lambda: door.refused["proxy_header"] == 2)
    assert closed(slow)
    assert door.accepted == []
    assert {one.__dict__["peer"] for one in caplog.records} == {STRANGER.host}


async def test_a_server_that_speaks_first_waits_for_a_moment(open_door: Doors) -> None:
    """A visitor of a raw port that sends nothing, or ends its direction, or sends what begins like a header, is a
    visitor all the same, with all that it has sent."""
    door = open_door("10.0.0.0/8", opaque=True)
    door.connect(b"PRO", STRANGER)
    door.connect(b"", STRANGER)
    door.connect(b"\r\n", STRANGER).shutdown(socket.SHUT_WR)
    door.connect(b"hello", STRANGER)
    door.connect(b"PROXY me\r\n to the other side", STRANGER)
    await until(lambda: len(door.accepted) == 5)
    assert sorted(data for _, data in door.accepted) == [
        b"",
        b"\r\n",
        b"PRO",
        b"PROXY me\r\n to the other side",
        b"hello",
    ]
    assert door.refused == {}


async def test_many_that_say_nothing_are_handed_on_sooner(open_door: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are visitors: none is closed for want of room to look at it."""
    monkeypatch.setattr(module, "_LOOK", 3600.0)
    door = open_door("10.0.0.0/8", opaque=True, capacity=2)
    for _ in range(5):
        door.connect(b"", STRANGER)
    assert (len(door.accepted), len(door.connections)) == (3, 2)


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
        ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
        ("0.0.0.0/0", "192.0.2.7", "::1"),
        (" ::1 ", "::1", "127.0.0.1"),
    ],
)
def test_networks_of_both_families(network: str, inside: str, outside: str) -> None:
    """Or single addresses; asked again, the answer is the same."""
    balancers = Balancers([parse_network(network)])
    for _ in range(2):
        assert inside in balancers
        assert outside not in balancers
    assert balancers
    assert not Balancers([])


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0.0-10.0.0.9", "10.0.0"])
def test_what_is_no_network(text: str) -> None:
    """An address inside of a network may be a slip, and is refused."""
    with pytest.raises(ValueError, match=r"use a network such as 10\.0\.0\.0/8"):
        parse_network(text)


def test_a_network_is_written_as_it_is_read() -> None:
    """In the --help, which shows defaults."""
    networks: list[Network] = [parse_network(text) for text in ("10.0.0.0/8", "192.0.2.7", "2001:db8::/32")]
    assert [str(network) for network in networks] == ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]
