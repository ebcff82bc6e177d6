"""The public port at its limits: too fast, too many, never ending, stopping."""

import asyncio
import logging
import ssl
from itertools import pairwise

import pytest
import trustme
from portway_proto.wire.limits import LINK_ALPN
from portway_relay.ingress.decision import Alert
from portway_relay.routing.tunnel import Tunnel
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.front_door import GREETING, HOST, NODE, Around, FrontMaker, answer, visit
from portway_testkit.links.carrier_link import until
from portway_testkit.visitors.hellos import real_hello


async def test_who_comes_too_fast_is_turned_away(open_front: FrontMaker, clock: ManualClock) -> None:
    """Beyond its burst an address is closed on unread, until time has passed."""
    front = open_front(limits={"connections_per_second": 1, "connection_burst": 2})
    hello = real_hello(None)
    assert await answer(front, hello) == Alert.UNRECOGNIZED_NAME.record
    assert await answer(front, hello) == Alert.UNRECOGNIZED_NAME.record
    assert await answer(front, b"") == b""
    assert front.arrivals.rejected == {"unrecognized_name": 2, "rate": 1}
    clock.now += 1
    assert await answer(front, hello) == Alert.UNRECOGNIZED_NAME.record
    assert front.arrivals.accepted == 4


async def test_who_guesses_names_too_fast_has_them_looked_up_no_more(
    open_front: FrontMaker, around: Around, clock: ManualClock
) -> None:
    """The answer is the same, and nobody is asked; names that somebody has do not count."""
    front = open_front(limits={"unknown_names_per_second": 1, "unknown_name_burst": 2})
    elsewhere = "b" * 16
    found: asyncio.Future[Tunnel | None] = asyncio.get_running_loop().create_future()
    found.set_result(around.tunnel)
    around.found[elsewhere] = found
    for number in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
        writer.write(real_hello(f"{elsewhere}.fra.example.com"))
        await until(lambda: len(around.visitors) == number + 1)
        writer.transport.abort()
    guesses = [real_hello(f"{letter * 16}.fra.example.com") for letter in "cdef"]
    answers = [await answer(front, guess) for guess in guesses[:3]]
    assert answers == [Alert.UNRECOGNIZED_NAME.record] * 3
    assert [label[0] for label, _ in around.asked] == ["b", "b", "b", "c", "d"]
    clock.now += 1
    assert await answer(front, guesses[3]) == Alert.UNRECOGNIZED_NAME.record
    assert around.asked[-1][0] == "f" * 16


async def test_names_are_no_guesses_while_the_node_has_just_started(
    open_front: FrontMaker, around: Around, clock: ManualClock
) -> None:
    """It knows none, and a balancer brings all visitors from one address; they wait in as many places as at any time,
    of which one address leaves some to others."""
    front = open_front(limits={"unknown_names_per_second": 1, "unknown_name_burst": 2, "max_half_open": 40})
    around.is_new = True
    found: asyncio.Future[Tunnel | None] = asyncio.get_running_loop().create_future()
    writers = []
    for number in range(40):
        label = "abcdefghij"[number // 10] * 8 + "abcdefghij"[number % 10] * 8
        around.found[label] = found
        _, writer = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
        writer.write(real_hello(f"{label}.fra.example.com"))
        writers.append(writer)
    await until(lambda: len(around.asked) + front.arrivals.rejected["not_looked_up"] == 40)
    assert 20 < len(around.asked) < 40
    around.is_new = False
    found.set_result(None)
    await until(lambda: front.half_open == 0)
    clock.now += 1
    for label in ("k" * 16, "l" * 16):
        assert await answer(front, real_hello(f"{label}.fra.example.com")) == Alert.UNRECOGNIZED_NAME.record
        assert around.asked[-1][0] == label, "those who waited took nothing from the rate"
    for writer in writers:
        writer.transport.abort()


async def test_handshakes_that_are_begun_and_left_use_up_a_share(
    open_front: FrontMaker, around: Around, clock: ManualClock
) -> None:
    """A network that leaves so many unfinished is closed on unread, until time has passed; others are served."""
    front = open_front(limits={"unfinished_handshakes_per_second": 3})
    hello = real_hello(NODE, [LINK_ALPN])
    for number in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
        writer.write(hello)
        await until(lambda: len(around.lanes) == number + 1)
        writer.transport.abort()
    assert await answer(front, b"") == b""
    assert front.arrivals.rejected == {"handshakes": 1}
    clock.now += 1
    _, writer = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
    writer.write(hello)
    await until(lambda: len(around.lanes) == 4)
    writer.transport.abort()


async def test_handshakes_that_are_completed_use_up_nothing(
    open_front: FrontMaker, around: Around, authority: trustme.CA
) -> None:
    """One address may make any number, one after the other."""
    front = open_front(limits={"unfinished_handshakes_per_second": 2})
    for _ in range(6):
        assert (await visit(front, authority))[0] == GREETING
        await until(lambda: len(around.visitors) > 0)
    assert not front.arrivals.rejected


async def test_no_visitor_is_taken_while_memory_is_scarce(
    open_front: FrontMaker, around: Around, authority: trustme.CA
) -> None:
    """Lanes are: clients and nodes that are here need them."""
    front = open_front()
    around.scarce = True
    assert await answer(front, real_hello(HOST)) == Alert.INTERNAL_ERROR.record
    assert front.arrivals.rejected == {"memory": 1}
    _, writer = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
    writer.write(real_hello(NODE, [LINK_ALPN]))
    await until(lambda: len(around.lanes) == 1)
    writer.transport.abort()
    around.scarce = False
    assert (await visit(front, authority))[0] == GREETING


async def test_hellos_that_come_together_leave_turns_to_others(open_front: FrontMaker, around: Around) -> None:
    """So many are acted upon in one turn of the loop, all of them in their order."""
    front = open_front(limits={"hellos_per_turn": 2})
    writers = [(await asyncio.open_connection("127.0.0.1", front.address.listening.port))[1] for _ in range(7)]
    await until(lambda: front.half_open == 7)
    for writer in writers:
        writer.write(real_hello(NODE, [LINK_ALPN]))
    counts = [0]
    while len(around.lanes) < 7:
        await asyncio.sleep(0)
        counts.append(len(around.lanes))
    assert max(later - before for before, later in pairwise(counts)) <= 2
    ports = [sock.getpeername()[1] for sock in around.lanes]
    assert sorted(ports) == sorted(writer.get_extra_info("sockname")[1] for writer in writers)
    assert front.half_open == 0
    for writer in writers:
        writer.transport.abort()


async def test_what_waits_for_its_turn_is_dropped_at_the_end(open_front: FrontMaker, around: Around) -> None:
    """Closing leaves no socket behind that was not handed on."""
    front = open_front(limits={"hellos_per_turn": 1})
    writers = [(await asyncio.open_connection("127.0.0.1", front.address.listening.port))[1] for _ in range(4)]
    await until(lambda: front.half_open == 4)
    for writer in writers:
        writer.write(real_hello(NODE, [LINK_ALPN]))
    await until(lambda: bool(around.lanes))
    await front.close()
    assert front.half_open == 0
    for writer in writers:
        writer.transport.abort()


async def test_a_hello_that_never_ends_is_dropped(open_front: FrontMaker) -> None:
    """After the time for a hello its connection is closed without a word."""
    front = open_front(limits={"hello_time": 0.02})
    assert await answer(front, b"") == b""
    assert front.half_open == 0


async def test_half_open_connections_are_bounded(open_front: FrontMaker) -> None:
    """As many hellos are awaited as the limit says."""
    front = open_front(limits={"max_half_open": 2})
    held = [await asyncio.open_connection("127.0.0.1", front.address.listening.port) for _ in range(2)]
    await until(lambda: front.half_open == 2)
    assert await answer(front, b"") == b""
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    await until(lambda: front.half_open == 0)


async def test_a_certificate_that_cannot_be_used_stops_nobody_else(
    open_front: FrontMaker, around: Around, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """The visitor is lost and the operator told; the next one is served."""
    front = open_front()
    around.fails = True
    with caplog.at_level(logging.ERROR):
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await visit(front, authority)
    assert "no such key" in caplog.text
    around.fails = False
    assert (await visit(front, authority))[0] == GREETING


async def test_visitors_of_both_families_are_told_by_their_address(
    open_front: FrontMaker, around: Around, authority: trustme.CA
) -> None:
    """On every address of the machine an IPv4 visitor is an IPv4 visitor."""
    front = open_front(listen=Endpoint("", 0))
    await visit(front, authority)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    reader, writer = await asyncio.open_connection(
        "::1", front.address.listening.port, ssl=context, server_hostname=HOST
    )
    assert await reader.read() == GREETING
    writer.close()
    await writer.wait_closed()
    assert [peer.host for peer, *_ in around.visitors] == ["127.0.0.1", "::1"]


async def test_after_the_stop_nobody_new_is_taken(open_front: FrontMaker, around: Around) -> None:
    """Half-open connections are dropped and new ones refused; what was handed on goes on."""
    front = open_front()
    reader, lane = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
    lane.write(real_hello(NODE, [LINK_ALPN]))
    await until(lambda: bool(around.lanes))
    silent, half_open = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
    await until(lambda: front.half_open == 1)

    await front.close()
    assert await silent.read() == b""
    assert front.half_open == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", front.address.listening.port)
    around.lanes[0].send(b"still here")
    assert await reader.readexactly(10) == b"still here"
    await front.close()
    for writer in (lane, half_open):
        writer.close()
        await writer.wait_closed()


async def test_a_port_that_is_taken_is_told(open_front: FrontMaker) -> None:
    """A front that cannot listen says so, and can be stopped all the same."""
    first = open_front()
    with pytest.raises(ListenError, match=f":{first.address.listening.port}: Address already in use"):
        open_front(listen=first.address.listening)
