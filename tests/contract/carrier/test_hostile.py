"""Peers that break the protocol in every state, that flood, that stop reading or answering."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from portway_carrier.contract import Lane
from portway_carrier.errors import ConnectionLost, HandshakeFailed, ProtocolViolation
from portway_carrier.values import Limits, Outcome, ServerTls
from portway_proto.wire.frames import (
    FrameType,
    Opening,
    RefusalReason,
    data_header,
    encode_frame,
    encode_number,
    encode_open,
    encode_refused,
)
from portway_proto.wire.limits import MAX_KEPT
from portway_testkit.links.carrier_link import (
    LABEL,
    CarrierLink,
    CarrierMaker,
    LinkMaker,
    RawAcceptorMaker,
    RawLane,
    RawOpenerMaker,
    broken_off,
    listener,
    reset,
    stream_of,
    transport_of,
    until,
)

VISIT = Opening(LABEL, "192.0.2.1", 1)

RULES_BROKEN = {
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "unknown type": b"\x7f\x00\x00\x00",
    "data over its limit": b"\x01\x04\x00\x01",
    "end over its limit": b"\x05\x00\x02\x01",
    "control frame over its limit": b"\x13\x00\x40\x01",
    "ping over its limit": b"\x08\x00\x00\x09",
    "skipped frame over its limit": b"\x80\x00\x40\x01",
    "hello": encode_frame(FrameType.HELLO, b"again"),
    "park": encode_frame(FrameType.PARK, b"again"),
    "want": encode_frame(FrameType.WANT, b"\x08\x01"),
    "end without number": b"\x05\x00\x00\x02ab",
    "end of a visit to come": encode_number(FrameType.END, 9),
    "reset of a visit to come": encode_number(FrameType.RESET, 9),
    "open of a visit to come": encode_open(9, VISIT),
    "malformed open": b"\x02\x00\x00\x04\x00\x00\x00\x02",
}
# What a side may not send, by state.
BY_ACCEPTOR = {
    "idle": {"data": data_header(1) + b"x", "opened": encode_number(FrameType.OPENED, 1)},
    "opening": {"data": data_header(1) + b"x", "end": encode_number(FrameType.END, 1)},
    "running": {
        "opened": encode_number(FrameType.OPENED, 1),
        "refused": encode_refused(1, RefusalReason.OTHER),
        "open": encode_open(2, VISIT),
    },
    "ended": {"data": data_header(1) + b"x", "end": encode_number(FrameType.END, 1)},
}
BY_OPENER = {
    "idle": {"data": data_header(1) + b"x", "retire": encode_frame(FrameType.RETIRE)},
    "running": {
        "open": encode_open(2, VISIT),
        "opened": encode_number(FrameType.OPENED, 1),
        "refused": encode_refused(1, RefusalReason.OTHER),
    },
    "ended": {"data": data_header(1) + b"x", "end": encode_number(FrameType.END, 1)},
}


def cases(by_state: dict[str, dict[str, bytes]]) -> list[object]:
    """Frames that are wrong in every state, in each state, and those that are wrong in one state only."""
    return [
        pytest.param(state, sent, id=f"{state}-{name}")
        for state, wrong in by_state.items()
        for name, sent in (RULES_BROKEN | wrong).items()
    ]


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """A local server that takes connections and says nothing."""
    listening = listener()
    yield listening.getsockname()[1]
    listening.close()


@pytest.mark.parametrize(("state", "sent"), cases(BY_ACCEPTOR))
async def test_an_acceptor_that_breaks_the_rules_loses_that_lane(
    link: CarrierLink, raw_acceptor: RawAcceptorMaker, state: str, sent: bytes
) -> None:
    """A frame out of place closes its lane and resets the visit on it. Other lanes are not affected."""
    others = link.pool.counts.idle
    lane: RawLane = await raw_acceptor(link)
    if state == "idle":
        lane.send(sent)
    else:
        at = link.visitors()
        reader, writer = await asyncio.open_connection(at.host, at.port)
        assert (await lane.frame())[0] == FrameType.OPEN
        if state != "opening":
            lane.send(encode_number(FrameType.OPENED, 1))
        if state == "ended":
            lane.send(encode_number(FrameType.END, 1))
            assert await reader.read() == b""
        lane.send(sent)
        if state != "ended":
            assert await broken_off(reader) == b""
        writer.close()
        assert (await link.end()).outcome is Outcome.LANE_LOST
    await lane.closed()
    await until(lambda: link.pool.counts.idle == others)


@pytest.mark.parametrize(("state", "sent"), cases(BY_OPENER))
async def test_an_opener_that_breaks_the_rules_loses_that_lane(
    raw_opener: RawOpenerMaker, state: str, sent: bytes
) -> None:
    """A frame out of place closes the lane and resets the local connection of its visit."""
    async with silent_server() as port:
        lane: RawLane = await raw_opener(port)
        if state != "idle":
            lane.send(encode_open(1, VISIT))
            assert (await lane.frame())[0] == FrameType.OPENED
        if state == "ended":
            lane.send(encode_number(FrameType.END, 1))
        lane.send(sent)
        await lane.closed()


async def test_more_than_is_kept_before_the_answer_loses_the_lane(raw_opener: RawOpenerMaker) -> None:
    """An opener that sends more than MAX_KEPT before OPENED loses its lane: the acceptor holds no more than that."""
    unanswering = socket.create_server(("127.0.0.1", 0), backlog=0)
    lanes = [socket.create_connection(unanswering.getsockname())]  # its backlog is full: dialling it takes long
    for _ in range(2):
        lanes.append(socket.socket())
        lanes[-1].setblocking(False)
        lanes[-1].connect_ex(unanswering.getsockname())
    lane: RawLane = await raw_opener(unanswering.getsockname()[1])
    lane.send(encode_open(1, VISIT), data_header(MAX_KEPT) + b"k" * MAX_KEPT)
    lane.send(encode_frame(FrameType.PING, b"alive"))
    while (await lane.frame()) != (FrameType.PONG, b"alive"):
        pass
    lane.send(data_header(1) + b"k")
    await lane.closed()
    for sock in (unanswering, *lanes):
        sock.close()


async def test_a_flood_of_pings_that_nobody_reads_the_answers_of_is_no_memory(raw_opener: RawOpenerMaker) -> None:
    """The answers to a peer that sends PINGs and does not read are bounded; it is served when it reads again."""
    async with silent_server() as port:
        lane: RawLane = await raw_opener(port, Limits(high_water=16 * 1024))
        transport_of(lane.writer).pause_reading()
        flood = encode_frame(FrameType.PING, b"12345678") * 5000
        for _ in range(100):
            lane.send(flood)
            await lane.writer.drain()
        lane.send(encode_open(1, VISIT))
        for _ in range(200):  # the carrier reads all of it, on this same loop
            await asyncio.sleep(0)
        transport_of(lane.writer).resume_reading()
        pongs = 0
        while (frame := await lane.frame())[0] == FrameType.PONG:
            pongs += 1
        assert frame[0] == FrameType.OPENED
        assert 0 < pongs < 500_000


async def test_a_control_lane_that_does_not_read_is_not_read(make_link: LinkMaker) -> None:
    """Requests of a client that does not read the answers are left unread; all arrive when it reads again."""
    link = await make_link(Limits(high_water=16 * 1024))
    answered = 0

    def answer(lane: Lane, frame_type: int, payload: bytes) -> None:
        nonlocal answered
        answered += 1
        lane.send(FrameType.BOUND, b"a" * 16_000)

    link.node_events.frame_received = answer  # type: ignore[method-assign]
    asked = 3000
    link.client_events.frame_received = lambda *_: None  # type: ignore[method-assign]
    for _ in range(asked):
        link.client_control.send(FrameType.BIND, b"b" * 64)
    await until(lambda: answered == asked)


async def test_a_peer_that_ends_in_mid_frame_resets_its_visit(
    link: CarrierLink, raw_acceptor: RawAcceptorMaker
) -> None:
    """A lane that ends within a frame is lost. The part that was received is delivered, and nothing else."""
    lane: RawLane = await raw_acceptor(link)
    at = link.visitors()
    reader, writer = await asyncio.open_connection(at.host, at.port)
    await lane.frame()
    lane.send(encode_number(FrameType.OPENED, 1), data_header(1000) + b"half")
    assert await reader.readexactly(4) == b"half"
    lane.writer.close()
    assert await broken_off(reader) == b""
    assert (await link.end()).outcome is Outcome.LANE_LOST
    writer.close()


async def test_unknown_frames_are_skipped_in_mid_visit(link: CarrierLink, raw_acceptor: RawAcceptorMaker) -> None:
    """Types from 0x80 on belong to later versions: they are skipped, and the visit goes on."""
    lane: RawLane = await raw_acceptor(link)
    at = link.visitors()
    reader, writer = await asyncio.open_connection(at.host, at.port)
    await lane.frame()
    lane.send(b"\xff\x00\x40\x00" + b"\x01" * 0x4000, encode_number(FrameType.OPENED, 1), b"\xfe\0\0\0")
    lane.send(data_header(2), b"o", b"k", encode_number(FrameType.END, 1))
    assert await reader.read() == b"ok"
    reset(writer)
    await link.end()


async def test_a_violation_is_told_to_the_owner(link: CarrierLink, trusting: ssl.SSLContext) -> None:
    """The owner of a lane that is closed for what the peer sent gets ProtocolViolation."""
    at, count = link.link_address, len(link.lanes)
    lane = RawLane(*await asyncio.open_connection(at.host, at.port, ssl=trusting, server_hostname="node.test"))
    lane.send(RULES_BROKEN["unknown type"])
    await until(lambda: len(link.lanes) > count)
    events = link.recorders[-1]
    await events.until(lambda: bool(events.closed))
    assert isinstance(events.closed[0], ProtocolViolation)
    await lane.closed()


async def test_garbage_instead_of_a_handshake_fails_it(make_carrier: CarrierMaker, server_tls: ServerTls) -> None:
    """Bytes that are not TLS end the stream with HandshakeFailed."""
    carrier = make_carrier()
    ours, theirs = socket.socketpair()
    stream = carrier.accept(ours, server_tls)
    theirs.sendall(b"\x00" * 100)
    with pytest.raises(HandshakeFailed):
        await stream.ready()
    theirs.close()


async def test_a_handshake_that_never_ends_is_ended(make_carrier: CarrierMaker, server_tls: ServerTls) -> None:
    """A visitor that sends nothing is dropped after Limits.handshake."""
    carrier = make_carrier(Limits(handshake=0.2))
    ours, theirs = socket.socketpair()
    stream = carrier.accept(ours, server_tls)
    with pytest.raises((HandshakeFailed, ConnectionLost)):
        await stream.ready()
    assert theirs.recv(1) == b""
    theirs.close()


async def test_a_handshake_that_is_given_up_ends_at_once(make_carrier: CarrierMaker, server_tls: ServerTls) -> None:
    """abort() drops a connection during its handshake, without waiting for the time limit."""
    carrier = make_carrier()
    ours, theirs = socket.socketpair()
    stream = carrier.accept(ours, server_tls)
    await asyncio.sleep(0)
    stream.abort()
    with pytest.raises(ConnectionLost):
        await stream.ready()
    assert await asyncio.to_thread(theirs.recv, 1) == b""
    theirs.close()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_socket_that_is_given_up_in_the_same_turn_is_closed(
    make_carrier: CarrierMaker, server_tls: ServerTls, encrypted: bool
) -> None:
    """abort() right after accept() closes the socket, though the task of the stream has not started."""
    carrier = make_carrier()
    ours, theirs = socket.socketpair()
    stream = carrier.accept(ours, server_tls if encrypted else None)
    stream.abort()
    await until(lambda: ours.fileno() == -1)
    assert theirs.recv(1) == b""
    theirs.close()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_socket_that_is_gone_is_told_by_its_stream(
    make_carrier: CarrierMaker, server_tls: ServerTls, encrypted: bool
) -> None:
    """accept() of a closed socket raises nothing; ready() does."""
    carrier = make_carrier()
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.close()
    stream = carrier.accept(ours, server_tls if encrypted else None)
    with pytest.raises((ConnectionLost, HandshakeFailed)):
        await stream.ready()


async def test_an_open_that_is_never_answered_ends(make_link: LinkMaker, raw_acceptor: RawAcceptorMaker) -> None:
    """After Limits.open_answer RESET is sent on the lane, and the visitor is handed back with nothing lost."""
    link = await make_link(Limits(open_answer=2.0))
    lane: RawLane = await raw_acceptor(link)
    at = link.visitors()
    visitor = socket.create_connection((at.host, at.port))
    visitor.sendall(b"hello")  # before it is accepted
    reader, writer = await asyncio.open_connection(sock=visitor)
    assert (await lane.frame())[0] == FrameType.OPEN
    end = await link.end()
    assert end.outcome is Outcome.UNANSWERED
    assert (await lane.frame(), await lane.frame()) == (
        (FrameType.DATA, b"hello"),
        (FrameType.RESET, (1).to_bytes(4)),
    )
    stream = stream_of(end)
    assert await stream.first_bytes(5) == b"hello"
    link.node.finish(stream, b"in vain")
    assert await reader.read() == b"in vain"
    writer.transport.abort()


async def test_the_lane_of_an_unanswered_open_serves_again(
    make_link: LinkMaker, raw_acceptor: RawAcceptorMaker
) -> None:
    """Once its RESET has been answered. An OPENED that comes too late is ignored."""
    link = await make_link(Limits(open_answer=1.0))
    lane: RawLane = await raw_acceptor(link)
    at = link.visitors()
    _, first = await asyncio.open_connection(at.host, at.port)
    assert (await lane.frame())[0] == FrameType.OPEN
    first_end = await link.end()
    assert first_end.visitor is not None
    first_end.visitor.abort()
    lane.send(encode_number(FrameType.OPENED, 1), encode_number(FrameType.RESET, 1))
    assert (await lane.frame())[0] == FrameType.RESET
    await link.settled()
    reader, second = await asyncio.open_connection(at.host, at.port)
    frame_type, payload = await lane.frame()
    assert (frame_type, payload[:4]) == (FrameType.OPEN, (2).to_bytes(4))
    lane.send(encode_number(FrameType.OPENED, 2), data_header(2), b"ok", encode_number(FrameType.END, 2))
    assert await reader.read() == b"ok"
    first.transport.abort()
    reset(second)
    await link.end(2)


async def test_a_visit_that_was_opened_has_no_such_limit(make_link: LinkMaker, raw_acceptor: RawAcceptorMaker) -> None:
    """However long it is silent after OPENED."""
    link = await make_link(Limits(open_answer=1.0))
    lane: RawLane = await raw_acceptor(link)
    at = link.visitors()
    reader, writer = await asyncio.open_connection(at.host, at.port)
    assert (await lane.frame())[0] == FrameType.OPEN
    lane.send(encode_number(FrameType.OPENED, 1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 2.0)
    assert not link.ends
    lane.send(data_header(2), b"ok", encode_number(FrameType.END, 1))
    assert await reader.read() == b"ok"
    reset(writer)
    await link.end()
