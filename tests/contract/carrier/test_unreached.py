"""Visits of which nothing has arrived at the peer of a dialling pool: what is known of them, and taking them back.

A peer is silent when the kernel drops what is sent to it: nothing is acknowledged, and no connection ends.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest
from portway_carrier.contract import Carrier, Lane, Stream, VisitEnd
from portway_carrier.values import Outcome, ServerTls
from portway_proto.wire.frames import FrameType, Opening, encode_frame
from portway_proto.wire.lane import Side
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import (
    CarrierLink,
    RawLane,
    RawNode,
    RawNodeMaker,
    Recorder,
    listener,
    reset,
    stream_of,
    until,
)
from portway_testkit.links.pool_visitors import Visitors
from portway_testkit.links.silence import hear_again, silence

MakeVisitors = Callable[..., Visitors]


async def silent_lane(node: RawNode) -> RawLane:
    """The next lane that is dialled to a node, which hears nothing after the first frame."""
    lane = await node.lanes.get()
    assert (await lane.frame())[0] == FrameType.PEER
    silence(lane.writer.get_extra_info("socket"))
    return lane


async def taken_back(visitors: Visitors, outcome: Outcome = Outcome.UNREACHED) -> Stream:
    end = await visitors.ends.get()
    assert end.outcome is outcome
    return stream_of(end)


async def served_with(node: RawNode, *sent: bytes) -> None:
    """OPEN comes to this node, with these pieces of what the visitor said."""
    lane = await node.lanes.get()
    assert (await lane.frame())[0] == FrameType.PEER
    assert (await lane.frame())[0] == FrameType.OPEN
    assert [await lane.frame() for _ in sent] == [(FrameType.DATA, piece) for piece in sent]


async def test_a_visit_of_which_nothing_arrives_is_taken_back_whole(
    raw_node: RawNodeMaker, make_visitors: MakeVisitors
) -> None:
    """It is joined elsewhere with all that its visitor has sent; where it was sent first nothing arrives later."""
    silent, other = await raw_node(), await raw_node()
    visitors = make_visitors(silent.target.address)
    lane = await silent_lane(silent)
    await until(lambda: visitors.pool.counts.idle == 1)
    (visit,) = await visitors.come()
    visitors.sockets[0].sendall(b"before ")
    await until(lambda: visit.bytes_in == 7)
    visitors.sockets[0].sendall(b"and after")
    await until(lambda: visit.bytes_in == 16)
    assert 0.0 < (visit.unreached_for or 0.0) < 5.0
    hear_again(lane.writer.get_extra_info("socket"))
    visit.take_back()
    visit.take_back()
    stream = await taken_back(visitors)
    assert visit.unreached_for is None
    make_visitors(other.target.address, on=visitors.carrier).join(stream)
    await served_with(other, b"before ", b"and after")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await lane.frame()


async def test_a_visit_that_has_arrived_is_not_taken_back(raw_node: RawNodeMaker, make_visitors: MakeVisitors) -> None:
    """Though nobody has answered it, and nothing is heard from the peer any more: bytes of it were there."""
    node = await raw_node()
    visitors = make_visitors(node.target.address)
    lane = await node.lanes.get()
    (visit,) = await visitors.come()
    assert (await lane.frame())[0] == FrameType.PEER
    assert (await lane.frame())[0] == FrameType.OPEN
    await until(lambda: visit.unreached_for is None)
    silence(lane.writer.get_extra_info("socket"))
    visitors.sockets[0].sendall(b"POST")
    await until(lambda: visit.bytes_in == 4)
    visit.take_back()
    assert visitors.ends.empty()
    reset(lane.writer)
    assert (await visitors.ends.get()).outcome is Outcome.LANE_LOST


async def test_a_visit_whose_lane_is_lost_before_it_arrived_is_handed_back(
    raw_node: RawNodeMaker, make_visitors: MakeVisitors
) -> None:
    """A node that was killed did not see it: its kernel answers with a reset."""
    node = await raw_node()
    visitors = make_visitors(node.target.address)
    lane = await silent_lane(node)
    await until(lambda: visitors.pool.counts.idle == 1)
    (visit,) = await visitors.come()
    visitors.sockets[0].sendall(b"whole")
    await until(lambda: visit.bytes_in == 5)
    reset(lane.writer)
    stream = await taken_back(visitors)
    assert await stream.first_bytes(1.0) == b"whole"
    stream.abort()


async def test_a_visit_on_a_lane_that_was_used_before_arrives_late(
    raw_node: RawNodeMaker, make_visitors: MakeVisitors
) -> None:
    """It is OPEN that matters, wherever in the bytes of the lane it is. The peer was away for a moment."""
    node = await raw_node()
    visitors = make_visitors(node.target.address)
    lane = await node.lanes.get()
    (first,) = await visitors.come()
    assert [(await lane.frame())[0] for _ in range(2)] == [FrameType.PEER, FrameType.OPEN]
    number = (1).to_bytes(4, "big")
    lane.send(encode_frame(FrameType.OPENED, number))
    await until(lambda: first.unreached_for is None)
    sock = lane.writer.get_extra_info("socket")
    silence(sock)
    visitors.sockets[0].sendall(b"x" * 1000)
    await until(lambda: first.bytes_in == 1000)
    # The lane that was idle last is used next: it must be the one of the first visit.
    await until(lambda: visitors.pool.counts.dialling == 0 and visitors.pool.counts.idle >= 2)
    visitors.sockets[0].close()
    lane.send(encode_frame(FrameType.END, number))
    assert (await visitors.ends.get()).outcome is Outcome.DONE
    (second,) = await visitors.come()
    await until(lambda: visitors.pool.counts.busy == 1)
    assert second.unreached_for is not None
    hear_again(sock)
    await until(lambda: second.unreached_for is None)
    assert (await lane.frame())[0] == FrameType.DATA


async def test_a_visit_that_waits_for_a_lane_is_taken_back(make_visitors: MakeVisitors) -> None:
    """The peer may be dialled in vain; the others go on waiting."""
    with listener() as silent:
        visitors = make_visitors(Endpoint(*silent.getsockname()))
        one, two = await visitors.come(2)
        await until(lambda: visitors.pool.counts.waiting == 2)
        assert one.unreached_for is not None
        one.take_back()
        (await taken_back(visitors, Outcome.NO_LANE)).abort()
        assert visitors.pool.counts.waiting == 1
        two.cut()
        assert (await visitors.ends.get()).outcome is Outcome.CUT


async def test_a_visit_is_taken_back_during_the_handshake_of_its_visitor(
    make_visitors: MakeVisitors, server_tls: ServerTls
) -> None:
    """It has asked for no lane yet; the handshake goes on, and can be joined elsewhere."""
    with listener() as silent:
        visitors = make_visitors(Endpoint(*silent.getsockname()))
        visit = visitors.join(await visitors.stream(server_tls))
        assert visit.unreached_for == 0.0
        visit.take_back()
        again = visitors.join(await taken_back(visitors, Outcome.NO_LANE))
        assert again.unreached_for == 0.0
        again.cut()
        assert (await visitors.ends.get()).outcome is Outcome.CUT


async def test_visits_of_a_session_are_not_taken_back(link: CarrierLink) -> None:
    """A client may have passed on what it has not acknowledged."""
    with listener() as silent:
        link.serve_with(silent.getsockname()[1])
        at = link.visitors()
        near = socket.create_connection((at.host, at.port))
        await until(lambda: bool(link.joined))
        assert link.joined[0].unreached_for is None
        link.joined[0].take_back()
        assert link.ends == []
        near.close()
        link.joined[0].cut()
        await link.end()


async def test_who_passes_a_visit_on_acknowledges_it_first(
    make_visitors: MakeVisitors, make_carrier: Callable[..., Carrier], server_tls: ServerTls, link: CarrierLink
) -> None:
    """The kernel would do so 40 ms later: long enough for a local server to have got what is taken back then."""
    loop, home, known = asyncio.get_running_loop(), make_carrier(), asyncio.Event()
    ends: list[VisitEnd] = []

    def pass_on(lane: Lane, opening: Opening) -> None:
        home.join(lane, link.pool, opening, lambda _, end: ends.append(end))
        assert visit.unreached_for is None
        known.set()

    events = Recorder(on_opening=pass_on)
    with listener() as listening:
        visitors = make_visitors(Endpoint(*listening.getsockname()))
        sock, _ = await loop.sock_accept(listening)
        stream = home.accept(sock, server_tls)
        await stream.ready()
        lane = home.lane(stream, Side.ACCEPTOR, events)
        await events.until(lambda: bool(events.frames))
        transport: Any = cast(Any, lane).transport
        with socket.socket(fileno=socket.dup(transport.get_extra_info("socket").fileno())) as same:
            same.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        (visit,) = await visitors.come()
        await known.wait()
        visit.cut()
        assert (await visitors.ends.get()).outcome is Outcome.CUT
        await until(lambda: bool(ends))
