"""A port's connections until their first bytes have been seen, on real ones; what becomes of them is told elsewhere."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network

import pytest
from portway_runtime.arrivals import ArrivalLimits, Arrivals
from portway_runtime.endpoints import Endpoint
from portway_runtime.listener import finish
from portway_runtime.listening import open_sockets
from portway_runtime.parse_results import NeedMore
from portway_runtime.proxy_protocol import ProxyHeader, encode_v2
from portway_testkit.links.carrier_link import until
from portway_testkit.processes.ports import free_port

LIMITS = ArrivalLimits(time_limit=3600.0, capacity=2, capacity_per_address=2)


class Port:
    """One that wants a line of text; `refused` is why nobody may come, "" while all may."""

    def __init__(self, *balancers: str) -> None:
        self.seen: list[tuple[str, str]] = []
        self.refused = ""
        self.arrivals = Arrivals[str](
            "test",
            lambda data: data.decode() if data.endswith(b"\n") else NeedMore(len(data) + 1),
            self._seen,
            lambda _: self.refused,
            balancers=[ip_network(one) for one in balancers],
            limits=LIMITS,
            clock=time.monotonic,
        )
        sockets = open_sockets(Endpoint("127.0.0.1", free_port()))
        self.at: tuple[str, int] = sockets[0].getsockname()
        self.arrivals.listen(sockets)

    def _seen(self, sock: socket.socket, peer: Endpoint, line: str, first_bytes: bytes) -> None:
        assert sock.recv(100, socket.MSG_PEEK) == first_bytes
        self.seen.append((peer.host, line))
        sock.close()


@pytest.fixture
def connect() -> Iterator[Callable[[Port], socket.socket]]:
    made: list[socket.socket] = []

    def to(port: Port) -> socket.socket:
        made.append(socket.create_connection(port.at))
        return made[-1]

    yield to
    for sock in made:
        sock.close()


async def test_who_has_sent_enough_is_handed_on(connect: Callable[[Port], socket.socket]) -> None:
    """Nothing of it is consumed; until then it is half open."""
    port = Port()
    visitor = connect(port)
    visitor.send(b"he")
    await until(lambda: port.arrivals.half_open == 1)
    visitor.send(b"llo\n")
    await until(lambda: port.seen == [("127.0.0.1", "hello\n")])
    assert (port.arrivals.half_open, port.arrivals.accepted, port.arrivals.rejected) == (0, 1, {})
    port.arrivals.close()


async def test_who_may_not_come_is_closed_and_counted(connect: Callable[[Port], socket.socket]) -> None:
    """By the reason, before it has said anything."""
    port = Port()
    port.refused = "rate"
    connect(port)
    await until(lambda: port.arrivals.rejected == {"rate": 1})
    assert (port.arrivals.accepted, port.arrivals.half_open) == (1, 0)
    port.arrivals.close()


async def test_the_oldest_makes_room(connect: Callable[[Port], socket.socket]) -> None:
    """Of those that are half open."""
    port = Port()
    for _ in range(3):
        connect(port)
    await until(lambda: port.arrivals.evicted == 1)
    assert port.arrivals.half_open == 2
    port.arrivals.close()
    assert port.arrivals.half_open == 0


async def test_behind_a_balancer_it_is_the_visitor_who_arrives(connect: Callable[[Port], socket.socket]) -> None:
    """What comes from there without a header is refused, and counted."""
    port = Port("127.0.0.0/8")
    header = encode_v2(ProxyHeader(Endpoint("192.0.2.1", 1), Endpoint("192.0.2.2", 2)))
    connect(port).send(header + b"hello\n")
    await until(lambda: port.seen == [("192.0.2.1", "hello\n")])
    connect(port).send(b"hello\n")
    await until(lambda: port.arrivals.rejected == {"no_proxy_header": 1})
    assert port.arrivals.accepted == 1
    port.arrivals.close()


async def test_who_came_before_the_end_is_heard(connect: Callable[[Port], socket.socket]) -> None:
    """Nobody else comes any more."""
    port = Port()
    visitor = connect(port)
    await until(lambda: port.arrivals.half_open == 1)
    await finish(port.arrivals.listeners, within=0.1)
    heard = asyncio.ensure_future(port.arrivals.heard())
    await asyncio.sleep(0)
    assert not heard.done()
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    visitor.send(b"hello\n")
    await heard
    assert port.seen == [("127.0.0.1", "hello\n")]
    port.arrivals.close()
