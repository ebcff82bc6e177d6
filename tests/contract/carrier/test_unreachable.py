"""An opener's dialling pool whose peer cannot be reached: which visitors wait for it, and for how long."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from portway_carrier.contract import Carrier, Outcome, Pool, Visit, VisitEnd
from portway_carrier.errors import CarrierError
from portway_carrier.values import ClientTls, DialTarget, Limits, ServerTls, SpareSizes
from portway_proto.wire.frames import FrameType
from portway_proto.wire.lane import Side
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import OPENING, Recorder, listener, until

# Longer than any test may take: a visitor that ends earlier has not waited for it.
WAIT = 60.0


class Visitors:
    """Joins visitors to a pool; how each visit ended is in `ends`."""

    def __init__(self, carrier: Carrier, pool: Pool) -> None:
        self.ends: asyncio.Queue[VisitEnd] = asyncio.Queue()
        self._carrier = carrier
        self._pool = pool
        self._listening = listener()
        self._sockets: list[socket.socket] = []

    async def come(self, count: int = 1) -> list[Visit]:
        return [await self._come() for _ in range(count)]

    async def _come(self) -> Visit:
        loop = asyncio.get_running_loop()
        near = socket.socket()
        near.setblocking(False)
        self._sockets.append(near)
        await loop.sock_connect(near, self._listening.getsockname())
        far, _ = await loop.sock_accept(self._listening)
        stream = self._carrier.accept(far, None)
        return self._carrier.join(stream, self._pool, OPENING, lambda _, end: self.ends.put_nowait(end))

    async def turned_away(self, count: int = 1) -> None:
        for _ in range(count):
            end = await self.ends.get()
            assert end.outcome is Outcome.NO_LANE
            assert end.visitor is not None
            end.visitor.abort()

    def close(self) -> None:
        for sock in (self._listening, *self._sockets):
            sock.close()


@pytest.fixture
def reserved() -> Endpoint:
    """An address where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return Endpoint(*sock.getsockname())


@pytest.fixture
async def make_visitors(
    make_carrier: Callable[..., Carrier], client_tls: ClientTls
) -> AsyncIterator[Callable[..., Visitors]]:
    made: list[Visitors] = []

    def make(address: Endpoint, wait: float = WAIT, lost: Callable[[CarrierError], None] = lambda _: None) -> Visitors:
        carrier = make_carrier(Limits(handshake=WAIT, ping_interval=0.4))
        target = DialTarget(address, client_tls, (FrameType.PEER, b"peer"))
        pool = carrier.dialling_pool(target, Side.OPENER, SpareSizes(quiet=1, busy=2, wait=wait), lost)
        made.append(Visitors(carrier, pool))
        return made[-1]

    yield make
    for visitors in made:
        visitors.close()


async def test_nobody_waits_for_a_peer_that_refuses_to_be_dialled(
    make_visitors: Callable[..., Visitors], reserved: Endpoint
) -> None:
    """All visitors that wait are handed back as soon as the dial has failed, and so are later ones."""
    visitors = make_visitors(reserved)
    for count in (1, 20, 1):
        await visitors.come(count)
        await visitors.turned_away(count)


async def test_a_visitor_does_not_wait_for_the_pause_of_a_pool_that_failed(
    make_visitors: Callable[..., Visitors],
    make_carrier: Callable[..., Carrier],
    reserved: Endpoint,
    server_tls: ServerTls,
) -> None:
    """The peer is dialled at once for the next visitor, whatever the pause: it may be back."""
    failures: list[CarrierError] = []
    visitors = make_visitors(reserved, lost=failures.append)
    await until(lambda: len(failures) >= 5)  # the next dial is due 0.8 s later at the earliest
    loop, peer, events = asyncio.get_running_loop(), make_carrier(), Recorder()
    failed = loop.time()
    with socket.create_server((reserved.host, reserved.port)) as listening:
        listening.setblocking(False)
        await until(lambda: loop.time() > failed + 0.1)  # until then that failure counts for new visitors too
        (visit,) = await visitors.come()
        sock, _ = await loop.sock_accept(listening)
        assert loop.time() < failed + 0.8
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
