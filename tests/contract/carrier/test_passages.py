"""Connections that are passed on as they are: a header goes in front, and nothing else is changed, kept or lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from portway_carrier.contract import Carrier, Passage, PassageEnd, Stream
from portway_carrier.errors import CarrierError
from portway_proto.wire.limits import MAX_KEPT
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import CarrierMaker, broken_off, listener, reset, until

HEADER = b"HEADER:"
NEVER = 3600.0


@dataclass
class Wire:
    """What a test holds of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass
class Stage:
    """A carrier, the far ends that listen, and all connections."""

    carrier: Carrier
    wires: list[Wire] = field(default_factory=list)
    servers: list[asyncio.Server] = field(default_factory=list)
    ends: list[PassageEnd] = field(default_factory=list)

    async def visitor(self) -> tuple[Wire, Stream]:
        with listener() as listening:
            wire = await self._dialled(listening.getsockname()[1])
            sock, _ = await asyncio.get_running_loop().sock_accept(listening)
        stream = self.carrier.accept(sock, None)
        await stream.ready()
        return wire, stream

    async def far(self) -> tuple[Wire, Stream]:
        """A server that a test plays, and the stream to it."""
        taken: asyncio.Queue[Wire] = asyncio.Queue()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await taken.put(Wire(reader, writer))

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        self.servers.append(server)
        stream = self.carrier.connect(Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]), None)
        await stream.ready()
        self.wires.append(await taken.get())
        return self.wires[-1], stream

    def pass_on(self, visitor: Stream, far: Stream, within: float = NEVER) -> Passage:
        return self.carrier.pass_on(visitor, far, HEADER, within, lambda passage, end: self.ends.append(end))

    async def passed(self) -> tuple[Wire, Wire, Passage]:
        """A visitor, a server that has answered it, and the passage between them."""
        (near, visitor), (far, stream) = await self.visitor(), await self.far()
        passage = self.pass_on(visitor, stream)
        far.writer.write(b"!")
        assert await near.reader.readexactly(1) == b"!"
        assert await far.reader.readexactly(len(HEADER)) == HEADER
        return near, far, passage

    async def end(self) -> PassageEnd:
        await until(lambda: bool(self.ends))
        return self.ends.pop()

    async def _dialled(self, port: int) -> Wire:
        self.wires.append(Wire(*await asyncio.open_connection("127.0.0.1", port)))
        return self.wires[-1]


def close_in_order(wire: Wire) -> None:
    wire.writer.write_eof()


def break_off(wire: Wire) -> None:
    wire.writer.transport.abort()


@pytest.fixture
async def stage(make_carrier: CarrierMaker) -> AsyncIterator[Stage]:
    stage = Stage(make_carrier())
    yield stage
    for wire in stage.wires:
        wire.writer.transport.abort()
    for server in stage.servers:
        server.close()
        await server.wait_closed()


async def test_bytes_pass_both_ways_behind_the_header(stage: Stage) -> None:
    """Those from before the passage as well; each direction ends by itself. It counts as no visit."""
    (near, visitor), (far, stream) = await stage.visitor(), await stage.far()
    near.writer.write(b"hello")
    assert await visitor.first_bytes(NEVER, 5) == b"hello"
    passage = stage.pass_on(visitor, stream)
    near.writer.write(b" and more")
    assert await far.reader.readexactly(len(HEADER) + 14) == HEADER + b"hello and more"
    near.writer.write_eof()
    assert await far.reader.read() == b""
    far.writer.write(b"answer" * 100_000)
    far.writer.close()
    assert await near.reader.read() == b"answer" * 100_000
    assert await stage.end() == PassageEnd(answered=True)
    assert (passage.bytes_in, passage.bytes_out) == (14, 600_000)
    assert (stage.carrier.counters.visits_started, stage.carrier.counters.bytes_in) == (0, 0)


async def test_a_server_may_end_first(stage: Stage) -> None:
    """What the visitor sends afterwards still arrives."""
    near, far, _ = await stage.passed()
    far.writer.write_eof()
    assert await near.reader.read() == b""
    near.writer.write(b"late")
    near.writer.write_eof()
    assert await far.reader.read() == b"late"
    assert await stage.end() == PassageEnd(answered=True)


@pytest.mark.parametrize("leave", [close_in_order, break_off])
async def test_a_visitor_that_leaves_a_silent_far_end_is_not_waited_for(
    stage: Stage, leave: Callable[[Wire], None]
) -> None:
    """Its silence is told, and the passage is over, though the far end's connection is open."""
    near, far, passage = await stage.passed()
    near.writer.write(b"call")
    assert await far.reader.readexactly(4) == b"call"
    await asyncio.sleep(0.1)  # its patience
    leave(near)
    end = await stage.end()
    assert end.answered
    assert passage.silence > 0.05
    with suppress(ConnectionError):
        assert await far.reader.read() == b""


async def test_a_visitor_that_ends_its_side_gets_what_is_still_coming(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as something comes; the far end's silence was none when the visitor ended."""
    patience = 2.0
    monkeypatch.setattr("portway_carrier.python.visits.passed_on._LEFT", patience)
    loop = asyncio.get_running_loop()
    began = loop.time()
    near, far, passage = await stage.passed()
    near.writer.write_eof()
    assert await far.reader.read() == b""
    ended = loop.time()
    while loop.time() < ended + 1.25 * patience:
        far.writer.write(b"more")
        assert await near.reader.readexactly(4) == b"more"
        await asyncio.sleep(0.02)
    far.writer.close()
    assert await near.reader.read() == b""
    await stage.end()
    assert passage.silence <= ended - began


async def _lost(stream: Stream) -> None:
    """Return once the carrier knows that it is."""
    try:
        while True:
            await stream.ready()
            await asyncio.sleep(0)
    except CarrierError:
        pass


async def _reset(wire: Wire) -> None:
    reset(wire.writer)


async def _end(wire: Wire) -> None:
    wire.writer.close()


@pytest.mark.parametrize("gives_up", [_reset, _end])
async def test_a_server_that_gives_up_unanswered_costs_nothing(
    stage: Stage, gives_up: Callable[[Wire], Awaitable[None]]
) -> None:
    """The visitor is passed on to another one, which gets all that it has sent."""
    (near, visitor), (first, stream) = await stage.visitor(), await stage.far()
    stage.pass_on(visitor, stream)
    near.writer.write(b"hello")
    assert await first.reader.readexactly(len(HEADER) + 5) == HEADER + b"hello"
    await gives_up(first)
    end = await stage.end()
    assert (end.answered, end.visitor) == (False, visitor)
    second, other = await stage.far()
    stage.pass_on(visitor, other)
    near.writer.write(b" again")
    assert await second.reader.readexactly(len(HEADER) + 11) == HEADER + b"hello again"
    second.writer.write(b"yes")
    assert await near.reader.readexactly(3) == b"yes"
    near.writer.close()
    assert await second.reader.read() == b""
    second.writer.close()
    assert await stage.end() == PassageEnd(answered=True)


async def test_a_silent_server_is_given_up(stage: Stage) -> None:
    """Also one that takes nothing; a visitor that has ended its direction is handed back so."""
    (near, visitor), (silent, stream) = await stage.visitor(), await stage.far()
    stage.pass_on(visitor, stream, within=0.05)
    near.writer.write(b"x" * 2 * MAX_KEPT)
    near.writer.write_eof()
    end = await stage.end()
    assert (end.answered, end.visitor) == (False, visitor)
    assert len(await broken_off(silent.reader)) <= len(HEADER) + 2 * MAX_KEPT
    second, other = await stage.far()
    stage.pass_on(visitor, other)
    second.writer.write(b"yes")
    assert await second.reader.read() == HEADER + b"x" * 2 * MAX_KEPT
    second.writer.close()
    assert await near.reader.read() == b"yes"
    assert await stage.end() == PassageEnd(answered=True)


async def test_a_visitor_that_leaves_unanswered_is_not_handed_back(stage: Stage) -> None:
    """The server is told by a reset."""
    (near, visitor), (far, stream) = await stage.visitor(), await stage.far()
    stage.pass_on(visitor, stream)
    assert await far.reader.readexactly(len(HEADER)) == HEADER
    reset(near.writer)
    assert await stage.end() == PassageEnd(answered=False)
    assert await broken_off(far.reader) == b""


@pytest.mark.parametrize("visitor_gives_up", [False, True])
async def test_a_reset_follows_what_was_sent_before(stage: Stage, visitor_gives_up: bool) -> None:
    """In either direction; the other end does not take it for an end in order."""
    near, far, passage = await stage.passed()
    from_, to = (near, far) if visitor_gives_up else (far, near)
    from_.writer.write(b"last words")
    await until(lambda: (passage.bytes_in if visitor_gives_up else passage.bytes_out - 1) == 10)
    reset(from_.writer)
    assert await broken_off(to.reader) == b"last words"
    assert await stage.end() == PassageEnd(answered=True)


async def test_a_peer_that_does_not_read_stops_the_other(stage: Stage) -> None:
    """Little is kept for it; the other direction goes on."""
    near, far, passage = await stage.passed()
    far.writer.write(bytes(64 << 20))
    before = -1
    while before != passage.bytes_out:
        before = passage.bytes_out
        near.writer.write(b"x")
        await far.reader.readexactly(1)
        await asyncio.sleep(0.05)
    assert passage.bytes_out < 32 << 20
    assert len(await near.reader.readexactly(64 << 20)) == 64 << 20


async def test_a_passage_is_closed_in_order(stage: Stage) -> None:
    """What was received is delivered. May be called again."""
    near, far, passage = await stage.passed()
    far.writer.write(b"last words")
    await until(lambda: passage.bytes_out == 11)
    passage.close()
    passage.close()
    assert await near.reader.read() == b"last words"
    assert await far.reader.read() == b""
    assert await stage.end() == PassageEnd(answered=True)


async def test_passages_end_with_the_carrier(stage: Stage) -> None:
    """Answered or not, both connections."""
    near, far, _ = await stage.passed()
    (second, visitor), (other, stream) = await stage.visitor(), await stage.far()
    stage.pass_on(visitor, stream)
    await stage.carrier.close()
    for wire in (near, far, second, other):
        try:
            while await wire.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass


async def test_a_stream_that_is_lost_already_is_reported(stage: Stage) -> None:
    """As if it had been lost a moment later."""
    (near, visitor), (far, stream) = await stage.visitor(), await stage.far()
    reset(far.writer)
    await _lost(stream)
    stage.pass_on(visitor, stream)
    assert (await stage.end()).visitor is visitor
    _, other = await stage.far()
    reset(near.writer)
    await _lost(visitor)
    stage.pass_on(visitor, other)
    assert await stage.end() == PassageEnd(answered=False)
