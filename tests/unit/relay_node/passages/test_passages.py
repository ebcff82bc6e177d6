"""Connections for the registry: which replica gets them, what it is told, and what happens when it does not answer."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from portway_carrier.contract import Stream
from portway_relay.config import NodeLimits
from portway_relay.passages import checking, unanswered
from portway_relay.passages import passages as passages_module
from portway_relay.passages.fronts import Front
from portway_testkit.fakes.registry_replicas import LAST_WORDS, BlackHole, PassingNode, Replica, proved
from portway_testkit.links.carrier_link import until
from portway_testkit.waiting import PATIENCE


@pytest.fixture
def dials_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next replica is dialled soon; one that was reached has time to answer."""
    monkeypatch.setattr(passages_module, "_NEXT_DIAL", 0.05)
    monkeypatch.setattr(passages_module, "_ANSWERED_WITHIN", PATIENCE)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that does not answer is given up soon, where there is another one; it has read what came by then."""
    monkeypatch.setattr(passages_module, "_ANSWERED_WITHIN", 0.5)
    monkeypatch.setattr(checking, "_ANSWERED_WITHIN", 0.05)


@pytest.fixture
def hopeless(dials_soon: None, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is the last one, and one that is not reached: for tests in which nobody answers."""
    monkeypatch.setattr(passages_module, "_ANSWERED_AT_LAST", 0.1)
    monkeypatch.setattr(passages_module, "_REACHED_WITHIN", 0.5)


async def test_a_replica_is_told_where_a_connection_comes_from(stage: PassingNode, replicas: list[Replica]) -> None:
    """In a header that this node proves for that replica; what follows is unchanged, both ways."""
    one = replicas[0]
    stage.learn(one)
    reader, writer = await stage.call(b"hello")
    assert await reader.readexactly(3) == b"r-1"
    writer.write(b" again")
    assert (await reader.readexactly(6)).endswith(b"again")
    (header,) = one.headers
    assert proved(one, header)
    assert header.source is not None
    assert (header.source.host, header.source.port) == writer.get_extra_info("sockname")[:2]
    assert header.destination is not None
    assert header.destination.port == writer.get_extra_info("peername")[1]
    assert one.received == b"hello again"
    assert stage.passages.running == 1
    writer.write_eof()
    await reader.read()
    await stage.passages.over()
    assert stage.passages.outcomes == {"done": 1}
    assert stage.passages.bytes_in == 11


async def test_no_two_headers_are_alike(stage: PassingNode, replicas: list[Replica]) -> None:
    """Each has a number of its own."""
    stage.learn(replicas[0])
    for _ in range(3):
        reader, _ = await stage.call()
        await reader.readexactly(3)
    assert len({header.tlvs for header in replicas[0].headers}) == 3


async def test_one_that_refuses_costs_nothing(stage: PassingNode, replicas: list[Replica]) -> None:
    """The next one is dialled at once, and afterwards it is the first."""
    one, other = replicas
    await one.stop()
    stage.learn(one, other)
    for _ in range(2):
        reader, _ = await stage.call()
        assert await reader.readexactly(3) == b"r-2"
    assert [front.replica for front in stage.fronts.in_order()] == ["r-2", "r-1"]


@pytest.mark.usefixtures("impatient")
async def test_one_that_accepts_and_says_nothing_is_given_up(stage: PassingNode, replicas: list[Replica]) -> None:
    """As a process that was stopped; the next one gets all that the caller has sent, behind a header of its own."""
    one, other = replicas
    one.silent = True
    stage.learn(one, other)
    reader, _ = await stage.call(b"hello")
    assert await reader.readexactly(3) == b"r-2"
    assert one.received == other.received == b"hello"
    assert proved(other, other.headers[0])
    assert not proved(other, one.headers[0])
    await until(lambda: [front.replica for front in stage.fronts.in_order()] == ["r-2", "r-1"])


async def test_who_was_not_answered_is_led_to_another_replica(
    stage: PassingNode, replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that falls silent after its first bytes, as one that hangs behind its handshake: the caller that leaves
    it comes to the other one when it comes again. The node asks the replica itself; callers of other addresses come to
    it as before."""
    monkeypatch.setattr(unanswered, "_SILENT", 0.05)
    asked: list[Front] = []
    monkeypatch.setattr(stage.passages._unanswered, "_doubt", asked.append)
    one, other = replicas
    stage.learn(one, other)
    near, far = stage.fronts.in_order()
    near.round_trip, far.round_trip = 0.01, 0.02
    reader, writer = await stage.call()
    assert await reader.readexactly(3) == b"r-1"
    one.silent = True
    writer.write(b"a call")
    await until(lambda: b"a call" in one.received)
    await asyncio.sleep(0.05)  # its patience
    writer.close()
    await until(lambda: stage.passages.outcomes == {"given_up": 1})
    one.silent = False
    reader, writer = await stage.call()
    assert await reader.readexactly(3) == b"r-2"
    stranger, _ = await stage.call(source="127.9.9.9")
    assert await stranger.readexactly(3) == b"r-1"
    assert asked == [near]


async def test_whoever_leaves_at_once_stays_with_its_replica(stage: PassingNode, replicas: list[Replica]) -> None:
    """As callers do that were answered."""
    stage.learn(*replicas)
    for _ in range(2):
        reader, writer = await stage.call()
        assert await reader.readexactly(3) == b"r-1"
        writer.close()
    await stage.passages.over()
    assert stage.passages.outcomes == {"done": 2}


@pytest.mark.usefixtures("dials_soon")
async def test_a_black_hole_is_passed_by(stage: PassingNode, replicas: list[Replica], black_hole: BlackHole) -> None:
    """After a moment, once: later callers are passed on to the one that answers first."""
    await black_hole.start()
    stage.learn(black_hole, replicas[1])
    reader, _ = await stage.call()
    assert await reader.readexactly(3) == b"r-2"
    assert [front.replica for front in stage.fronts.in_order()] == ["r-2", "hole"]
    await black_hole.stop()


@pytest.mark.usefixtures("hopeless")
@pytest.mark.parametrize("how", ["none", "refuse", "silent", "hole"])
async def test_with_everything_down_the_caller_is_told(
    stage: PassingNode, replicas: list[Replica], black_hole: BlackHole, how: str
) -> None:
    """Whether none is known, all refuse, or nobody answers."""
    await black_hole.start()
    for one in replicas:
        one.silent = how == "silent"
        if how == "refuse":
            await one.stop()
    stage.learn(*{"none": [], "hole": [black_hole]}.get(how, replicas))
    reader, _ = await stage.call()
    assert await reader.read() == LAST_WORDS
    await until(lambda: stage.passages.outcomes == {"unanswered": 1})
    assert stage.passages.running == 0
    await black_hole.stop()


async def test_a_caller_that_leaves_is_forgotten(stage: PassingNode, replicas: list[Replica]) -> None:
    """Before anybody has answered; nobody is blamed for it."""
    one = replicas[0]
    one.silent = True
    stage.learn(one)
    _, writer = await stage.call()
    await until(lambda: bool(one.headers))
    writer.transport.abort()
    await stage.passages.over()
    assert sum(stage.passages.outcomes.values()) == 1
    assert stage.passages.running == 0


@pytest.mark.parametrize("limits", [NodeLimits(max_passed=10)])
async def test_places_are_shared(stage: PassingNode, replicas: list[Replica]) -> None:
    """One address has most of them, never all; a place is free again when the connection ends."""
    stage.learn(replicas[0])
    wires = []
    while not stage.passages.outcomes:
        with suppress(AssertionError):
            wires.append(await stage.call())
    assert stage.passages.outcomes == {"no_place": 1}
    assert 6 <= len(wires) < 10
    for reader, _ in wires:
        await reader.readexactly(3)
    wires[0][1].close()
    await until(lambda: stage.passages.running == len(wires) - 1)
    reader, _ = await stage.call()
    assert await reader.readexactly(3) == b"r-1"


@pytest.mark.parametrize("limits", [NodeLimits(passed_per_second=2)])
async def test_they_begin_in_turns(stage: PassingNode, replicas: list[Replica]) -> None:
    """Above the rate they wait, also for the node's end."""
    stage.learn(replicas[0])
    loop = asyncio.get_running_loop()
    began = loop.time()
    wires = [await stage.call() for _ in range(3)]
    for reader, _ in wires:
        await reader.readexactly(3)
    assert loop.time() - began >= 0.5 - 0.05
    for reader, writer in wires:
        writer.close()
        await reader.read()
    await stage.call(b"")
    await stage.passages.close()
    assert stage.passages.running == 0


async def test_while_memory_is_scarce_none_is_taken(stage: PassingNode, replicas: list[Replica]) -> None:
    """As no visitor is."""
    stage.learn(replicas[0])
    stage.scarce = True
    with pytest.raises(AssertionError, match="no place"):
        await stage.call()


async def test_at_the_end_they_are_closed_in_order(stage: PassingNode, replicas: list[Replica]) -> None:
    """A caller has what the replica has sent, and connects anew; those that wait are closed too."""
    one, other = replicas
    other.silent = True
    stage.learn(one)
    reader, _ = await stage.call()
    assert await reader.readexactly(3) == b"r-1"
    stage.learn(other)
    waiting, _ = await stage.call()
    await until(lambda: bool(other.headers))
    over = asyncio.ensure_future(stage.passages.over())
    for _ in range(10):  # turns of the loop
        await asyncio.sleep(0)
    assert not over.done()
    await stage.passages.close()
    assert await reader.read() in (b"", b"hello")
    assert await waiting.read() == b""
    await over


class Dialled:
    """A stream that nobody answers, and what is known of when it is open."""

    def __init__(self, stream: Stream, open_now: "set[Dialled]") -> None:
        self._stream = stream
        self._open_now = open_now
        open_now.add(self)

    async def ready(self) -> object:
        return await self._stream.ready()

    def abort(self) -> None:
        self._open_now.discard(self)
        self._stream.abort()


@pytest.mark.usefixtures("hopeless")
async def test_a_connection_takes_three_descriptors_however_many_replicas_are_silent(
    stage: PassingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of its own and two of dials: strangers' connections could else take all that visitors need."""
    holes = [BlackHole() for _ in range(5)]
    open_now, most, connect = set[Dialled](), 0, stage.carrier.connect

    def counted(*args: Any) -> Dialled:
        nonlocal most
        dialled = Dialled(connect(*args), open_now)
        most = max(most, len(open_now))
        return dialled

    monkeypatch.setattr(stage.carrier, "connect", counted)
    for one in holes:
        await one.start()
    stage.learn(*holes)
    reader, _ = await stage.call()
    assert await reader.read() == LAST_WORDS
    await stage.passages.over()
    for one in holes:
        await one.stop()
    assert most == 2
    assert not open_now


@pytest.mark.usefixtures("dials_soon")
async def test_a_replica_that_was_dialled_later_is_not_blamed(
    stage: PassingNode,
    replicas: list[Replica],
    black_hole: BlackHole,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first one answers after the pause, as from afar; the next one was dialled a moment before."""
    await black_hole.start()
    stage.learn(replicas[0], black_hole)
    both, is_reached = asyncio.Event(), passages_module._is_reached

    async def slow(stream: Stream) -> bool:
        if stream.peer.port == replicas[0].port:
            await both.wait()
        both.set()
        return await is_reached(stream)

    monkeypatch.setattr(passages_module, "_is_reached", slow)
    reader, _ = await stage.call()
    assert await reader.readexactly(3) == b"r-1"
    assert both.is_set()
    assert "does not answer" not in caplog.text
    await black_hole.stop()
