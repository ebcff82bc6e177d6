"""An opener's dialling pool whose peer cannot be reached: which visitors wait for it, and for how long."""

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest
from portway_carrier.contract import Carrier
from portway_carrier.errors import CarrierError
from portway_carrier.values import Outcome, ServerTls
from portway_proto.wire.lane import Side
from portway_runtime.backoff import Backoff
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import OPENING, Recorder, listener, until
from portway_testkit.links.pool_visitors import Visitors
from portway_testkit.processes.ports import held_port

NEVER = 3600.0


@pytest.fixture
def reserved() -> Iterator[socket.socket]:
    """Has an address that nobody else gets, and does not listen."""
    with held_port() as holder:
        holder.setblocking(False)
        yield holder


async def test_nobody_waits_for_a_peer_that_refuses_to_be_dialled(
    make_visitors: Callable[..., Visitors], reserved: socket.socket
) -> None:
    """All visitors that wait are handed back as soon as the dial has failed, and so are later ones."""
    visitors = make_visitors(Endpoint(*reserved.getsockname()))
    for count in (1, 20, 1):
        await visitors.come(count)
        await visitors.turned_away(count)


async def test_a_visitor_does_not_wait_for_the_pause_of_a_pool_that_failed(
    make_visitors: Callable[..., Visitors],
    make_carrier: Callable[..., Carrier],
    reserved: socket.socket,
    server_tls: ServerTls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peer is dialled at once for the next visitor, whatever the pause: it may be back."""
    monkeypatch.setattr("portway_carrier.python.lanes.dialling_pool.Backoff", lambda *_: Backoff(NEVER, NEVER))
    failures: list[CarrierError] = []
    visitors = make_visitors(Endpoint(*reserved.getsockname()), lost=failures.append)
    await until(lambda: bool(failures))
    loop, peer, events = asyncio.get_running_loop(), make_carrier(), Recorder()
    failed = loop.time()
    reserved.listen()
    await until(lambda: loop.time() > failed + 0.1)  # until then that failure counts for new visitors too
    (visit,) = await visitors.come()
    sock, _ = await loop.sock_accept(reserved)
    stream = peer.accept(sock, server_tls)
    await stream.ready()
    lane = peer.lane(stream, Side.ACCEPTOR, events)
    await events.until(lambda: bool(events.openings))
    assert events.openings[0][1] == OPENING
    visit.cut()
    assert (await visitors.ends.get()).outcome is Outcome.CUT
    lane.abort()


async def test_a_peer_that_does_not_answer_is_waited_for_within_the_limit(
    make_visitors: Callable[..., Visitors],
) -> None:
    """The peer may be alive, so visitors wait for SpareSizes.wait."""
    with listener() as silent:
        visitors = make_visitors(Endpoint(*silent.getsockname()), wait=0.5)
        began = asyncio.get_running_loop().time()
        await visitors.come()
        await visitors.turned_away()
        assert asyncio.get_running_loop().time() - began >= 0.5


async def test_a_lane_that_is_left_is_waited_for(
    make_visitors: Callable[..., Visitors], make_carrier: Callable[..., Carrier], server_tls: ServerTls
) -> None:
    """A peer that accepts no further lane still has one, with a visit on it: the next visitor gets that lane."""
    loop, peer, events = asyncio.get_running_loop(), make_carrier(), Recorder()
    failures: list[CarrierError] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        visitors = make_visitors(Endpoint(*listening.getsockname()), lost=failures.append)
        (first,) = await visitors.come()
        sock, _ = await loop.sock_accept(listening)
    stream = peer.accept(sock, server_tls)
    await stream.ready()
    lane = peer.lane(stream, Side.ACCEPTOR, events)
    await events.until(lambda: len(events.openings) == 1)
    await visitors.come()
    await until(lambda: len(failures) >= 3)
    assert visitors.ends.empty()
    first.cut()
    assert (await visitors.ends.get()).outcome is Outcome.CUT
    await events.until(lambda: len(events.openings) == 2)
    lane.abort()
    assert (await visitors.ends.get()).outcome is Outcome.LANE_LOST
