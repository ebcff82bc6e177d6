"""Visitors of raw ports: led to their tunnel at once, or once it was found; a bounded number at a time."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_network

import pytest
from portway_relay.ingress.raw_visitors import RawVisitors
from portway_relay.routing.lookup import Destination
from portway_relay.routing.tunnel import Tunnel
from portway_runtime.balancers import Network
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxy_protocol import ProxyHeader, encode_v2
from portway_runtime.rates import AddressRate
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.front_door import LABEL, Around
from portway_testkit.links.carrier_link import until

PEER = Endpoint("192.0.2.7", 40_000)
OTHER = "a" * 16


class Starts:
    """What visits were begun with."""

    def __init__(self) -> None:
        self.begun: list[tuple[socket.socket, Endpoint, Destination | None, str]] = []
        self.fails = False

    def start_raw(self, sock: socket.socket, peer: Endpoint, destination: Destination | None, region: str) -> None:
        self.begun.append((sock, peer, destination, region))
        if self.fails:
            raise RuntimeError("no visit can be begun")


class Door:
    """A raw front, who begins its visits, and visitors of it."""

    def __init__(self, around: Around, clock: ManualClock, balancers: Sequence[Network] = ()) -> None:
        self.around = around
        self.starts = Starts()
        self.failures: list[BaseException] = []
        self.visitors: list[socket.socket] = []
        self.front = RawVisitors(
            around,
            self.starts,
            "fra",
            balancers=balancers,
            rate=AddressRate(1, 3, clock),
            header_time=5.0,
            max_waiting=2,
            clock=clock,
            on_failure=self.failures.append,
        )

    def visit(self, label: str, peer: Endpoint = PEER) -> tuple[socket.socket, socket.socket]:
        """A new visitor's end of its connection, and the node's."""
        theirs, ours = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        self.visitors += [theirs, ours]
        self.front.connected(label, ours, peer)
        return theirs, ours

    def looks_for(self, label: str) -> "asyncio.Future[Tunnel | None]":
        """It is asked for from now on, and this is the answer."""
        self.around.found[label] = asyncio.get_running_loop().create_future()
        return self.around.found[label]


@pytest.fixture
async def door(around: Around, clock: ManualClock) -> AsyncIterator[Door]:
    door = Door(around, clock)
    yield door
    await door.front.close()
    for sock in door.visitors:
        sock.close()


def ended(visitor: socket.socket) -> bool:
    """Whether the node has closed its connection; with something unread it is reset."""
    try:
        return visitor.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


async def test_a_tunnel_that_is_known_is_visited_at_once(door: Door) -> None:
    """Within the call, and nobody is asked."""
    _, ours = door.visit(LABEL)
    assert door.starts.begun == [(ours, PEER, door.around.tunnel, "fra")]
    assert door.around.asked == []


async def test_another_tunnel_is_looked_for(door: Door) -> None:
    """By label, in the region that the port is of; the visitor waits untouched meanwhile."""
    found = door.looks_for(OTHER)
    theirs, ours = door.visit(OTHER)
    theirs.send(b"early")
    await until(lambda: door.around.asked == [(OTHER, "fra")])
    assert door.starts.begun == []
    found.set_result(door.around.tunnel)
    await until(lambda: bool(door.starts.begun))
    assert door.starts.begun == [(ours, PEER, door.around.tunnel, "fra")]
    assert ours.recv(16) == b"early"


async def test_a_tunnel_that_nobody_has_is_told_as_such(door: Door) -> None:
    """Who begins visits ends it, as with a tunnel that is full."""
    _, ours = door.visit(OTHER)
    await until(lambda: bool(door.starts.begun))
    assert door.starts.begun == [(ours, PEER, None, "fra")]


async def test_an_address_that_comes_too_fast_is_closed(door: Door, clock: ManualClock) -> None:
    """Unread, and counted; nobody is asked for its sake, other addresses do not suffer, and its time comes again."""
    for _ in range(3):
        door.visit(LABEL)
    theirs, _ = door.visit(OTHER)
    assert ended(theirs)
    assert (door.front.rejected["raw_rate"], door.around.asked, len(door.starts.begun)) == (1, [], 3)
    door.visit(LABEL, Endpoint("192.0.2.8", 40_000))
    clock.now += 1
    door.visit(LABEL)
    assert (door.front.rejected["raw_rate"], len(door.starts.begun)) == (1, 5)


async def test_so_many_wait_and_no_more(door: Door) -> None:
    """One above the limit is closed; those whose tunnel is known do not wait; who was found makes room."""
    found = door.looks_for(OTHER)
    door.visit(OTHER)
    door.visit(OTHER)
    theirs, _ = door.visit(OTHER)
    assert ended(theirs)
    other = Endpoint("192.0.2.9", 40_000)
    door.visit(LABEL, other)
    assert len(door.starts.begun) == 1
    found.set_result(door.around.tunnel)
    await until(lambda: len(door.starts.begun) == 3 and not door.front._waiting.held)
    door.visit(OTHER, other)
    await until(lambda: len(door.starts.begun) == 4)


@pytest.mark.parametrize("asked", [True, False], ids=["being asked for", "not asked for yet"])
async def test_the_end_drops_those_that_wait(door: Door, asked: bool) -> None:
    """Each is closed, also one that has come within the same turn of the loop."""
    door.looks_for(OTHER)
    theirs, _ = door.visit(OTHER)
    if asked:
        await until(lambda: bool(door.around.asked))
    await door.front.close()
    assert ended(theirs)
    assert door.starts.begun == []
    assert door.failures == []


@pytest.mark.parametrize("where", ["finding", "beginning"])
async def test_a_failure_ends_the_connection(door: Door, where: str) -> None:
    """Of whoever was asked, or of who begins visits: the node hears of it, and the visitor is not left hanging."""
    found = door.looks_for(OTHER)
    theirs, _ = door.visit(OTHER)
    if where == "finding":
        found.set_exception(RuntimeError("nobody can be asked"))
    else:
        door.starts.fails = True
        found.set_result(None)
    await until(lambda: bool(door.failures))
    assert [type(failure) for failure in door.failures] == [RuntimeError]
    assert ended(theirs)


async def test_behind_a_balancer_visitors_have_addresses_of_their_own(around: Around, clock: ManualClock) -> None:
    """And rates; what they send to the tunnel begins behind the header. Nobody else is believed, nor any without."""
    door = Door(around, clock, [ip_network(PEER.host)])
    visitor, other = Endpoint("203.0.113.7", 5000), Endpoint("2001:db8::7", 5000)
    header, others = (encode_v2(ProxyHeader(of, Endpoint("198.51.100.1", 443))) for of in (visitor, other))
    for sent in (header, header, header, header, others):
        theirs, _ = door.visit(LABEL)
        assert door.front.half_open == 1
        theirs.send(sent + b"hello")
        await until(lambda: door.front.half_open == 0)
    assert door.front.rejected == {"raw_rate": 1}
    assert [peer for _, peer, _, _ in door.starts.begun] == [visitor, visitor, visitor, other]
    assert all(ours.recv(100) == b"hello" for ours, *_ in door.starts.begun)
    theirs, _ = door.visit(LABEL)
    theirs.send(b"hello")
    await until(lambda: door.front.rejected["no_proxy_header"] == 1)
    assert ended(theirs)
    theirs, _ = door.visit(LABEL, Endpoint("192.0.2.99", 40_000))
    theirs.send(header)
    await until(lambda: door.front.rejected["proxy_header"] == 1)
    assert ended(theirs)
    _, ours = door.visit(LABEL, Endpoint("192.0.2.99", 40_000))
    await door.front.over()
    assert door.starts.begun[-1][0] is ours
    door.visit(LABEL)
    await door.front.close()
    assert door.front.half_open == 0
    for sock in door.visitors:
        sock.close()
