"""Peeking on real connections: what is seen, when, and in which state the socket is handed on."""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable

import pytest
from portway_relay.ingress import peek as peek_module
from portway_relay.ingress.client_hello import MAX_HELLO, MAX_RECORDS, Parsed, parse
from portway_relay.ingress.peek import FirstMessage, read_hello
from portway_relay.net.plain_http import Request
from portway_runtime.endpoints import Endpoint
from portway_runtime.first_bytes import FirstBytes
from portway_runtime.parse_results import Invalid
from portway_testkit.links.carrier_link import until
from portway_testkit.visitors.hellos import message_of, real_hello, records, server_name

NAME = "k5zq2w7b3xav6mdy.fra.example.com"
HELLO = real_hello(NAME, ["h2", "http/1.1"])
KNOWN = parse(HELLO)
PEER = Endpoint("192.0.2.1", 4711)
LONG = 3600.0
SHORT = 0.02

Pair = tuple[socket.socket, socket.socket]
Connect = Callable[[], Pair]


class Seen:
    """What a peek told."""

    def __init__(self) -> None:
        self.all: list[tuple[socket.socket, FirstMessage, bytes]] = []
        self._told = asyncio.Event()

    def __call__(self, sock: socket.socket, peer: Endpoint, hello: FirstMessage, first_bytes: bytes) -> None:
        assert peer == PEER
        self.all.append((sock, hello, first_bytes))
        self._told.set()

    async def one(self) -> tuple[socket.socket, FirstMessage, bytes]:
        await self._told.wait()
        (told,) = self.all
        return told


def open_peek(
    seen: Seen, *, time_limit: float, capacity: int, capacity_per_address: int = 100
) -> FirstBytes[FirstMessage]:
    return FirstBytes(
        read_hello,
        seen,
        time_limit=time_limit,
        capacity=capacity,
        capacity_per_address=capacity_per_address,
        clock=time.monotonic,
    )


async def turns(count: int = 10) -> None:
    """Let the loop look at every socket that is readable."""
    for _ in range(count):
        await asyncio.sleep(0)


async def arrived(ours: socket.socket, size: int) -> None:
    """Return once so many bytes wait to be read."""
    waiting = bytearray(4)

    def there() -> bool:
        fcntl.ioctl(ours, termios.FIONREAD, waiting)
        return int.from_bytes(waiting, sys.byteorder) == size

    await until(there)


async def hung_up(theirs: socket.socket) -> None:
    """Return once our end is closed: in order, or with a reset over bytes that nobody read."""
    try:
        assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""
    except ConnectionResetError:
        pass


def handed_on_whole(sock: socket.socket, sent: bytes) -> None:
    """The socket as `seen` may expect it: nothing consumed, no mark, nobody else's reader on it."""
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    assert sock.gettimeout() == 0
    assert not asyncio.get_running_loop().remove_reader(sock)
    received = bytearray()
    while len(received) < len(sent):
        received += sock.recv(len(sent) + 1)
    assert received == sent


async def test_a_hello_that_is_there_is_seen_at_once(connect: Connect) -> None:
    """A whole hello needs no turn of the loop, and the bytes that were looked at are told."""
    ours, theirs = connect()
    theirs.send(HELLO + b"early")
    await arrived(ours, len(HELLO) + 5)
    seen = Seen()
    peek = open_peek(seen, time_limit=LONG, capacity=0)
    peek.add(ours, PEER)
    assert seen.all == [(ours, KNOWN, HELLO + b"early")]
    assert len(peek) == 0
    handed_on_whole(ours, HELLO + b"early")


async def test_a_hello_in_many_packets_wakes_the_node_a_few_times(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte, a hello is looked at when it may be whole, and not for every packet."""
    looks: list[int] = []

    def counted(data: bytes) -> object:
        looks.append(len(data))
        return parse(data)

    monkeypatch.setattr(peek_module, "parse", counted)
    ours, theirs = connect()
    seen = Seen()
    peek = open_peek(seen, time_limit=LONG, capacity=1)
    peek.add(ours, PEER)
    for at in range(len(HELLO)):
        assert seen.all == []
        assert len(peek) == 1
        theirs.send(HELLO[at : at + 1])
        await turns(2)
    assert await seen.one() == (ours, KNOWN, HELLO)
    assert len(looks) <= 3
    assert len(peek) == 0
    handed_on_whole(ours, HELLO)


@pytest.mark.parametrize("size", [17 * 1024, MAX_HELLO])
@pytest.mark.parametrize("record", [512, 16 * 1024])
async def test_long_hellos_are_awaited_whole(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, size: int, record: int
) -> None:
    """17 KB and more, in any honest records, are seen with their last byte, after a bounded number of looks."""
    looks: list[int] = []

    def counted(data: bytes) -> object:
        looks.append(len(data))
        return parse(data)

    monkeypatch.setattr(peek_module, "parse", counted)
    hello = records(message_of(size, server_name(NAME.encode())), record)
    ours, theirs = connect()
    seen = Seen()
    open_peek(seen, time_limit=LONG, capacity=1).add(ours, PEER)
    for at in range(0, len(hello), 1400):
        assert seen.all == []
        await asyncio.get_running_loop().sock_sendall(theirs, hello[at : at + 1400])
        await turns(2)
    _, answer, first_bytes = await seen.one()
    assert answer == Parsed(NAME)
    assert first_bytes == hello
    assert len(looks) <= 2 * MAX_RECORDS + 2
    handed_on_whole(ours, hello)


async def test_a_hello_of_tiny_records_is_decided_early(connect: Connect) -> None:
    """Records of a byte each are refused as soon as there are too many of them."""
    ours, theirs = connect()
    seen = Seen()
    open_peek(seen, time_limit=LONG, capacity=1).add(ours, PEER)
    await asyncio.get_running_loop().sock_sendall(theirs, records(message_of(8 * 1024), 1))
    _, answer, _ = await seen.one()
    assert isinstance(answer, Invalid)


@pytest.mark.parametrize("begun", [b"", HELLO[:1], HELLO[:4], HELLO[:5], HELLO[:-1], b"GET"], ids=len)
async def test_a_hello_that_does_not_end_in_time_is_dropped(connect: Connect, begun: bytes) -> None:
    """Whatever was sent of it: at the time limit the connection is closed, and nobody hears of it."""
    ours, theirs = connect()
    seen = Seen()
    peek = open_peek(seen, time_limit=SHORT, capacity=1)
    if begun:
        theirs.send(begun)
    peek.add(ours, PEER)
    await hung_up(theirs)
    assert ours.fileno() == -1
    assert len(peek) == 0
    assert seen.all == []


async def test_more_bytes_do_not_buy_more_time(connect: Connect) -> None:
    """The limit is for a whole hello: who sends a byte now and then is dropped like who sends none."""
    ours, theirs = connect()
    seen = Seen()
    peek = open_peek(seen, time_limit=SHORT, capacity=1)
    peek.add(ours, PEER)
    for at in range(len(HELLO) - 1):
        try:
            theirs.send(HELLO[at : at + 1])
        except OSError:
            break
        await asyncio.sleep(0)
    await hung_up(theirs)
    assert len(peek) == 0
    assert seen.all == []


@pytest.mark.parametrize("begun", [b"", HELLO[:1], HELLO[:5], HELLO[:100], HELLO[:-1], b"GE"], ids=len)
async def test_an_end_in_the_middle_is_noticed_at_once(connect: Connect, begun: bytes) -> None:
    """Readable with too few bytes means that no more will come: no time limit is waited for."""
    ours, theirs = connect()
    seen = Seen()
    peek = open_peek(seen, time_limit=LONG, capacity=1)
    peek.add(ours, PEER)
    if begun:
        theirs.send(begun)
        await turns()
    assert len(peek) == 1
    theirs.shutdown(socket.SHUT_WR)
    await hung_up(theirs)
    assert len(peek) == 0
    assert seen.all == []


async def test_a_reset_in_the_middle_is_noticed_at_once(connect: Connect) -> None:
    """A visitor that breaks off frees its place."""
    ours, theirs = connect()
    peek = open_peek(Seen(), time_limit=LONG, capacity=1)
    peek.add(ours, PEER)
    theirs.send(HELLO[:50])
    await turns()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    await until(lambda: len(peek) == 0)
    assert ours.fileno() == -1


async def test_a_visitor_that_ends_after_its_hello_is_seen(connect: Connect) -> None:
    """An end behind a whole hello is for TLS to deal with."""
    ours, theirs = connect()
    theirs.send(HELLO)
    theirs.shutdown(socket.SHUT_WR)
    seen = Seen()
    open_peek(seen, time_limit=LONG, capacity=1).add(ours, PEER)
    assert (await seen.one())[1] == KNOWN


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x80\x2e\x01\x00\x02", b"\x00", b"\x16\x02", b"GET\t/"]
)
async def test_garbage_is_told_as_such(connect: Connect, garbage: bytes) -> None:
    """What is no hello is seen as soon as that is certain, with the bytes that say so."""
    ours, theirs = connect()
    seen = Seen()
    peek = open_peek(seen, time_limit=LONG, capacity=1)
    peek.add(ours, PEER)
    theirs.send(garbage)
    _, answer, first_bytes = await seen.one()
    assert isinstance(answer, Invalid)
    assert first_bytes == garbage
    handed_on_whole(ours, garbage)


@pytest.mark.parametrize("cut", [1, 7, 8, 10, 18, 20, 27])
async def test_a_request_in_clear_text_is_seen_with_its_host(connect: Connect, cut: int) -> None:
    """A request that came in two packets is told with target and Host, so that its sender can be redirected."""
    request = b"PROPFIND /x HTTP/1.1\r\nHost: a\r\n"
    ours, theirs = connect()
    seen = Seen()
    open_peek(seen, time_limit=LONG, capacity=1).add(ours, PEER)
    theirs.send(request[:cut])
    await turns()
    assert seen.all == []
    theirs.send(request[cut:])
    assert await seen.one() == (ours, Request(b"/x", b"a"), request)
    handed_on_whole(ours, request)


async def test_so_many_wait_and_the_oldest_makes_room(connect: Connect) -> None:
    """Above the limit the one that has waited for longest is closed: thousands that say nothing shut nobody out. One
    that says who it is at once needs no room."""
    seen = Seen()
    peek = open_peek(seen, time_limit=LONG, capacity=2)
    waiting = [connect() for _ in range(2)]
    for ours, _ in waiting:
        peek.add(ours, PEER)
    quick, theirs = connect()
    theirs.send(HELLO)
    await arrived(quick, len(HELLO))
    peek.add(quick, PEER)
    assert [told[0] for told in seen.all] == [quick]
    assert (len(peek), peek.evicted) == (2, 0)

    late, speaker = connect()
    peek.add(late, PEER)
    assert (len(peek), peek.evicted) == (2, 1)
    await hung_up(waiting[0][1])
    assert waiting[0][0].fileno() == -1
    speaker.send(HELLO)
    await until(lambda: len(seen.all) == 2)
    assert seen.all[1][0] is late
    assert len(peek) == 1
    peek.close()
    await hung_up(waiting[1][1])


async def test_one_address_makes_room_for_itself(connect: Connect) -> None:
    """At the limit of its own, and nobody else's connection is touched."""
    peek = open_peek(Seen(), time_limit=LONG, capacity=10, capacity_per_address=1)
    others, first, second = connect(), connect(), connect()
    peek.add(others[0], Endpoint("198.51.100.7", 1))
    peek.add(first[0], PEER)
    peek.add(second[0], PEER)
    await hung_up(first[1])
    assert len(peek) == 2
    assert others[0].fileno() != -1
    assert second[0].fileno() != -1
    peek.close()


async def test_closing_drops_all_that_wait(connect: Connect) -> None:
    """What has said too little is closed; what was seen is no longer the peek's."""
    seen = Seen()
    peek = open_peek(seen, time_limit=LONG, capacity=10)
    first, speaker = connect()
    peek.add(first, PEER)
    speaker.send(HELLO)
    await seen.one()
    silent = [connect() for _ in range(3)]
    for ours, _ in silent:
        peek.add(ours, PEER)
    peek.close()
    for ours, theirs in silent:
        await hung_up(theirs)
        assert ours.fileno() == -1
    assert first.fileno() != -1
    assert len(peek) == 0


async def test_a_connection_that_is_gone_is_dropped(connect: Connect) -> None:
    """A reset before the first look leaves nothing behind."""
    ours, theirs = connect()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    peek = open_peek(Seen(), time_limit=LONG, capacity=1)
    peek.add(ours, PEER)
    await until(lambda: len(peek) == 0)
    assert ours.fileno() == -1
