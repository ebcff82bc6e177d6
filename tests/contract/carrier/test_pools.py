"""Pools: how many lanes are kept and dialled, which visitor gets one, in what order, and which gets none."""

import asyncio
import contextlib
import socket

import pytest
from portway_carrier.errors import CarrierError, HandshakeFailed, PeerFailed
from portway_carrier.values import (
    ClientTls,
    DialTarget,
    Limits,
    LocalService,
    Outcome,
    PoolLimits,
    ServerTls,
    SpareSizes,
)
from portway_proto.v1 import lane_pb2
from portway_proto.wire.frames import FrameType, Opening
from portway_proto.wire.lane import Side
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import (
    LABEL,
    OPENING,
    CarrierLink,
    CarrierMaker,
    LinkMaker,
    RawLane,
    RawNodeMaker,
    Recorder,
    listener,
    stream_of,
    until,
)
from portway_testkit.waiting import PATIENCE


async def dial(address: Endpoint) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
    return sock


def wants(link: CarrierLink) -> list[int]:
    """The numbers in the WANTs that the node has sent so far."""
    return [
        lane_pb2.Want.FromString(payload).lanes
        for frame_type, payload in link.client_events.frames
        if frame_type == FrameType.WANT
    ]


async def test_two_spare_lanes_until_somebody_visits_then_eight(link: CarrierLink) -> None:
    """A pool keeps SpareSizes.quiet spare lanes, and from the first visit on SpareSizes.busy."""
    assert link.pool.counts.idle == 2
    with listener() as listening:
        link.serve_with(listening.getsockname()[1])
        visitor = await dial(link.visitors())
        await until(lambda: link.pool.counts.busy == 1 and link.pool.counts.idle == 8)
        assert link.serving.counts.idle == 8
        visitor.close()
        link.joined[0].cut()
        await link.end()


async def test_waiting_visitors_are_served_in_the_order_they_came(make_link: LinkMaker) -> None:
    """With one lane for all, the visitor that has waited longest is next."""
    link = await make_link(sizes=SpareSizes(quiet=1, busy=1, lanes=1), pool_limits=PoolLimits(lanes=1))
    served = asyncio.Queue[str]()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await served.put((await reader.readline()).decode().strip())
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    link.serve_with(server.sockets[0].getsockname()[1])
    holder = await dial(link.visitors())
    await until(lambda: link.pool.counts.busy == 1)
    address = link.visitors()
    visitors = []
    for number in range(5):
        visitors.append(await dial(address))
        await until(lambda: link.pool.counts.waiting == number + 1)
        visitors[-1].sendall(b"%d\n" % number)
    holder.sendall(b"first\n")
    for expected in ("first", "0", "1", "2", "3", "4"):
        assert await served.get() == expected
        for sock in (holder, *visitors):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
    for number in range(1, 7):
        await link.end(number)
    for sock in (holder, *visitors):
        sock.close()
    server.close()


async def test_more_than_may_wait_are_turned_away_at_once(make_link: LinkMaker) -> None:
    """PoolLimits.waiting visitors wait. The next one is handed back at once, the others when their time is up."""
    limits = PoolLimits(lanes=1, waiting=2, wait=2.0)
    link = await make_link(Limits(ping_interval=0.4), SpareSizes(quiet=0, busy=0), limits)
    link.serving.close()  # the client ignores WANT from now on: no lane ever comes
    visitors = [await dial(link.visitors()) for _ in range(3)]
    end = await link.end(1)
    assert end.outcome is Outcome.NO_LANE
    assert link.pool.counts.waiting == 2
    await link.end(3)
    assert link.pool.counts.waiting == 0
    for _, ended in link.ends:
        assert ended.outcome is Outcome.NO_LANE
        stream_of(ended).abort()
    for visitor in visitors:
        visitor.close()


async def test_want_says_how_many_wait_and_never_more_than_there_may_be(make_link: LinkMaker) -> None:
    """Visitors that come together share one WANT. Repeated, because no lane came, it has the same number. No WANT has
    more lanes than the pool may have."""
    link = await make_link(sizes=SpareSizes(quiet=0, busy=0), pool_limits=PoolLimits(lanes=3, wait=30.0))
    link.serving.close()  # the client ignores WANT from now on: no lane ever comes
    address = link.visitors()
    visitors = [await dial(address) for _ in range(5)]
    await until(lambda: wants(link).count(3) >= 2)
    assert sorted(wants(link)) == wants(link)
    assert wants(link)[-1] == 3
    link.pool.retire()
    await link.end(5)
    for _, ended in link.ends:
        assert ended.outcome is Outcome.NO_LANE
        stream_of(ended).abort()
    for visitor in visitors:
        visitor.close()


async def test_a_thousand_idle_visitors_have_a_lane_each(make_link: LinkMaker) -> None:
    """Lanes are dialled when they are requested, in bounded bursts, and few more than are needed."""
    many = 1000
    sizes = SpareSizes(dials=16)
    link = await make_link(Limits(handshake=30.0), sizes, PoolLimits(wait=60.0))
    most_dialling = 0

    def all_have_one() -> bool:
        nonlocal most_dialling
        most_dialling = max(most_dialling, link.serving.counts.dialling)
        return link.pool.counts.busy == many

    with socket.create_server(("127.0.0.1", 0), backlog=many) as listening:
        link.serve_with(listening.getsockname()[1])
        address = link.visitors()
        visitors = [await dial(address) for _ in range(many)]
        await until(all_have_one)
        assert most_dialling <= sizes.dials
        await until(lambda: link.serving.counts.dialling == 0)
        assert link.serving.counts.idle + link.serving.counts.busy <= many + 2 * sizes.dials + sizes.busy
        assert link.pool.counts.waiting == 0
        for visit in link.joined:
            visit.cut()
        await link.end(many)
        for visitor in visitors:
            visitor.close()


async def test_a_greeting_that_is_refused_is_not_repeated_at_once(
    raw_node: RawNodeMaker, make_carrier: CarrierMaker
) -> None:
    """A node that closes every lane with FAIL is dialled again after growing pauses, and each failure is reported."""
    carrier = make_carrier()
    lost: list[CarrierError] = []
    node = await raw_node()
    pool = carrier.dialling_pool(node.target, Side.ACCEPTOR, SpareSizes(quiet=1, busy=1), lost.append)
    loop = asyncio.get_running_loop()
    times = []
    for _ in range(4):
        lane: RawLane = await node.lanes.get()
        times.append(loop.time())
        assert (await lane.frame())[0] == FrameType.PARK
        lane.send(b"\x0b\x00\x00\x04full")
        await lane.closed()
    pool.close()
    assert len(lost) >= 3
    assert all(isinstance(error, PeerFailed) and error.payload == b"full" for error in lost)
    assert times[3] - times[0] >= 0.05 + 0.1 + 0.2


async def test_a_server_of_another_protocol_is_no_node(raw_node: RawNodeMaker, make_carrier: CarrierMaker) -> None:
    """A lane on which the node did not choose the lane protocol's ALPN is closed before anything is sent on it."""
    carrier = make_carrier()
    lost: list[CarrierError] = []
    node = await raw_node()
    target = DialTarget(
        node.target.address,
        type(node.target.tls)(node.target.tls.ca, node.target.tls.server_name, "portway-link/1"),
        (FrameType.PARK, b"secret"),
    )
    pool = carrier.dialling_pool(target, Side.ACCEPTOR, SpareSizes(quiet=1, busy=1), lost.append)
    lane: RawLane = await node.lanes.get()
    with contextlib.suppress(ConnectionResetError):
        assert await lane.reader.read() == b""
    await until(lambda: bool(lost))
    assert isinstance(lost[0], HandshakeFailed)
    pool.close()


async def test_a_lane_that_comes_after_its_pool_was_retired_is_not_parked(
    make_carrier: CarrierMaker, server_tls: ServerTls, client_tls: ClientTls
) -> None:
    """It would be closed at once, while the node has given it to a visitor that waits: that one would be reset."""
    carrier, node = make_carrier(), make_carrier()
    with listener() as listening:
        target = DialTarget(Endpoint(*listening.getsockname()), client_tls, (FrameType.PARK, b"park"))
        pool = carrier.dialling_pool(target, Side.ACCEPTOR, SpareSizes(quiet=1, busy=1), lambda _: None)
        sock, _ = await asyncio.get_running_loop().sock_accept(listening)
        assert pool.counts.dialling == 1  # its handshake waits for the node's
        pool.retire()
        stream = node.accept(sock, server_tls)
        await stream.ready()
        assert await stream.first_bytes(PATIENCE) == b""


async def test_who_retires_serves_the_open_that_crosses(raw_node: RawNodeMaker, make_carrier: CarrierMaker) -> None:
    """The acceptor's retire() sends RETIRE and closes nothing: an OPEN on its way is served."""
    carrier, events = make_carrier(), Recorder()
    node = await raw_node()
    with listener() as listening:
        pool = carrier.dialling_pool(node.target, Side.ACCEPTOR, SpareSizes(quiet=1, busy=1, lanes=1), lambda _: None)
        carrier.serve(pool, {LABEL: LocalService(listening.getsockname()[1])})
        lane: RawLane = await node.lanes.get()
        await lane.frame()
        await until(lambda: pool.counts.idle == 1)
        pool.retire()
        lane.send(node.open(1))
        assert (await lane.frame())[0] == FrameType.RETIRE
        assert (await lane.frame())[0] == FrameType.OPENED
        assert pool.counts.busy == 1
        lane.writer.transport.abort()
        await until(lambda: pool.counts.busy == 0)
    assert not events.closed


async def test_an_opening_that_cannot_be_said_is_refused_here(link: CarrierLink) -> None:
    """join() raises for a visitor without an address; lane and visitor are untouched."""
    with listener() as listening:
        visitor = await dial(Endpoint(*listening.getsockname()))
        sock, _ = await asyncio.get_running_loop().sock_accept(listening)
        stream = link.node.accept(sock, None)
        before = link.pool.counts
        for wrong in (Opening(LABEL, "", 1), Opening(LABEL, "192.0.2.1", 70_000), Opening("ä" * 16, "192.0.2.1", 1)):
            try:
                link.node.join(stream, link.pool, wrong, link.ended)
            except ValueError:
                continue
            raise AssertionError(f"{wrong} was taken")
        assert link.pool.counts == before
        link.node.join(stream, link.pool, OPENING, link.ended)
        assert (await link.end()).outcome is Outcome.REFUSED
        stream_of(link.ends[0][1]).abort()
        visitor.close()


async def test_a_callback_that_fails_closes_what_it_concerns(
    link: CarrierLink, caplog: pytest.LogCaptureFixture
) -> None:
    """A visitor that the callback fails to take back is closed. The failure is logged, and nothing else is affected."""

    def fail(*_: object) -> None:
        raise RuntimeError("a bug of the caller")

    with listener() as listening:
        visitor = await dial(Endpoint(*listening.getsockname()))
        sock, _ = await asyncio.get_running_loop().sock_accept(listening)
        link.node.join(link.node.accept(sock, None), link.pool, OPENING, fail)
        reader, writer = await asyncio.open_connection(sock=visitor)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
    assert "a callback failed" in caplog.text
    await link.settled()
