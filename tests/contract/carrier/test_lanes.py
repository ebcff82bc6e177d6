"""Lanes: control frames, liveness, release, visits that cross two lanes."""

import asyncio
import os
import socket
import ssl

import pytest
import trustme
from portway_carrier.errors import ConnectFailed, HandshakeFailed, PeerFailed, PeerSilent, TlsSettingsError
from portway_carrier.values import ClientTls, Limits, Outcome, PoolLimits, ServerTls, SpareSizes
from portway_proto.wire.frames import FrameType, RefusalReason
from portway_proto.wire.lane import Side
from portway_runtime.endpoints import Endpoint
from portway_testkit.links.carrier_link import (
    CarrierLink,
    CarrierMaker,
    LinkMaker,
    RawAcceptorMaker,
    Recorder,
    broken_off,
    lane_of,
    listener,
    relayed,
    reset,
    stream_of,
    until,
)
from portway_testkit.processes.ports import held_port


async def test_control_frames_arrive_whole_and_in_order(link: CarrierLink) -> None:
    """Frames of the control lane reach their owner on the other side, unchanged."""
    for number in range(100):
        link.client_control.send(FrameType.BIND, b"%d" % number + b"x" * 5000)
    await link.node_events.until(lambda: len(link.node_events.frames) == 101)
    assert [frame[1][:-5000] for frame in link.node_events.frames[1:]] == [b"%d" % n for n in range(100)]


async def test_fail_tells_the_peer_why(link: CarrierLink) -> None:
    """FAIL reaches the peer's lane_closed with its payload, and both ends are closed."""
    link.lanes[0].fail(b"why")
    await link.client_events.until(lambda: bool(link.client_events.closed))
    (error,) = link.client_events.closed
    assert isinstance(error, PeerFailed)
    assert error.payload == b"why"
    await link.node_events.until(lambda: bool(link.node_events.closed))


async def test_an_oversized_payload_is_refused_here(link: CarrierLink) -> None:
    """send() raises before anything is written; the lane stays usable."""
    with pytest.raises(ValueError, match="limit"):
        link.client_control.send(FrameType.BIND, b"x" * 20_000)
    link.client_control.send(FrameType.UNBIND, b"fine")
    await link.node_events.until(lambda: (FrameType.UNBIND, b"fine") in link.node_events.frames)


async def test_a_silent_peer_is_dead(make_carrier: CarrierMaker, server_tls: ServerTls, authority: trustme.CA) -> None:
    """A lane whose peer answers no PING, though its socket is open, ends with PeerSilent after two silences."""
    carrier = make_carrier(Limits(ping_interval=0.1))
    sock = listener()
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    opening = asyncio.ensure_future(
        asyncio.open_connection(*sock.getsockname(), ssl=context, server_hostname="node.test")
    )
    connection, _ = await asyncio.get_running_loop().sock_accept(sock)
    stream = carrier.accept(connection, server_tls)
    reader, writer = await opening
    await stream.ready()
    events = Recorder()
    carrier.lane(stream, Side.OPENER, events)
    await events.until(lambda: bool(events.closed))
    assert isinstance(events.closed[0], PeerSilent)
    received = await reader.read()
    assert received.startswith(bytes([FrameType.PING]))
    writer.close()
    sock.close()


async def test_a_peer_that_answers_lives(make_link: LinkMaker) -> None:
    """PING and PONG keep idle lanes open as long as both ends answer."""
    link = await make_link(Limits(ping_interval=0.05))
    before = link.pool.counts.idle
    loop = asyncio.get_running_loop()
    until_time = loop.time() + 0.6
    await until(lambda: loop.time() > until_time)
    assert link.pool.counts.idle == before
    assert not link.node_events.closed
    assert not link.client_events.closed


async def test_a_reset_without_an_answer_closes_the_lane(make_link: LinkMaker, raw_acceptor: RawAcceptorMaker) -> None:
    """A peer that answers nothing after a visit was opened loses the lane, so that it cannot hold memory."""
    link = await make_link(Limits(reset_answer=0.2))
    lane = await raw_acceptor(link)
    address = link.visitors()
    visitor = socket.create_connection((address.host, address.port))
    assert (await lane.frame())[0] == FrameType.OPEN
    reset(visitor)
    await lane.closed()
    assert (await link.end()).outcome is Outcome.VISITOR_LOST


async def test_idle_lanes_above_need_are_let_go(make_link: LinkMaker) -> None:
    """Lanes that a burst needed are closed after it, by the opener, at the client's request."""
    link = await make_link(Limits(ping_interval=0.2), sizes=SpareSizes(quiet=2, busy=3, shrink_after=0.3))
    link.serving.want(10)
    await until(lambda: link.node.counters.lanes_opened == 1 + 2 + 10)  # the first is the control lane
    await until(lambda: link.node.counters.lanes_closed == 10)
    assert link.pool.counts.idle == 2
    await until(lambda: link.serving.counts.idle == 2)


async def test_a_closed_pool_hands_waiting_visitors_back(make_link: LinkMaker) -> None:
    """retire() ends the visits that wait and releases idle lanes."""
    link = await make_link(sizes=SpareSizes(quiet=1, busy=1, lanes=1), pool_limits=PoolLimits(lanes=1))
    address = link.visitors()
    link.serving.retire()
    await until(lambda: link.pool.counts.idle == 0)
    visitor = socket.create_connection((address.host, address.port))
    await until(lambda: link.pool.counts.waiting == 1)
    link.pool.retire()
    assert (await link.end()).outcome is Outcome.NO_LANE
    stream_of(link.ends[0][1]).abort()
    visitor.close()


async def test_without_a_control_lane_nobody_waits(link: CarrierLink) -> None:
    """In a detached session a visitor that finds no idle lane ends at once."""
    address = link.visitors()
    link.serving.retire()
    await until(lambda: link.pool.counts.idle == 0)
    link.pool.attach_control(None)
    visitor = socket.create_connection((address.host, address.port))
    assert (await link.end()).outcome is Outcome.NO_LANE
    stream_of(link.ends[0][1]).abort()
    visitor.close()


async def test_dialling_nobody_fails_with_the_address(make_carrier: CarrierMaker) -> None:
    """ConnectFailed names the address."""
    carrier = make_carrier()
    with held_port() as held:
        address = Endpoint(*held.getsockname())
        with pytest.raises(ConnectFailed, match=str(address)):
            await carrier.connect(address, None).ready()


async def test_a_wrong_ca_is_untrusted(link: CarrierLink, make_carrier: CarrierMaker) -> None:
    """A certificate signed by another CA fails the handshake, and the error says that the certificate is the cause."""
    import trustme

    carrier = make_carrier()
    other = ClientTls(trustme.CA().cert_pem.bytes(), "node.test")
    with pytest.raises(HandshakeFailed) as caught:
        await carrier.connect(link.link_address, other).ready()
    assert caught.value.untrusted


async def test_tls_settings_that_cannot_be_used_say_so(make_carrier: CarrierMaker, server_tls: ServerTls) -> None:
    """A key that does not belong to its certificate raises at once, and the socket is closed."""
    import trustme

    carrier = make_carrier()
    ours, theirs = socket.socketpair()
    other = trustme.CA().issue_cert("node.test").private_key_pem.bytes()
    with pytest.raises(TlsSettingsError, match="certificate and key"):
        carrier.accept(ours, ServerTls(server_tls.certificate, other))
    assert theirs.recv(1) == b""
    theirs.close()


async def test_refused_openings_leave_the_lane_idle(link: CarrierLink) -> None:
    """A label that is not in the table is NOT_HERE; the opener gets the visitor back and the lane is idle."""
    link.table.clear()
    address = link.visitors()
    visitor = socket.create_connection((address.host, address.port))
    end = await link.end()
    assert (end.outcome, end.reason) == (Outcome.REFUSED, RefusalReason.NOT_HERE)
    stream_of(end).abort()
    visitor.close()
    await link.settled()


async def test_abandon_closes_descriptors_and_says_nothing(link: CarrierLink) -> None:
    """For a forked child: the descriptors are closed, and nothing is sent to the peer."""
    pid = os.fork()
    if pid == 0:
        link.client.abandon()
        os._exit(0)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    link.client_control.send(FrameType.UNBIND, b"still here")
    await link.node_events.until(lambda: (FrameType.UNBIND, b"still here") in link.node_events.frames)


async def reverse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read())[::-1])
    writer.close()


async def test_a_visit_is_joined_from_lane_to_lane(make_link: LinkMaker) -> None:
    """An opening that came in over one link is joined to the pool of another; half-close is kept over the hop."""
    far = await make_link()
    near = await make_link(sizes=SpareSizes(quiet=0, busy=0))
    await relayed(near, far)
    server = await asyncio.start_server(reverse, "127.0.0.1", 0)
    far.serve_with(server.sockets[0].getsockname()[1])
    address = near.visitors()
    for number in (1, 2):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"ab" * 200_000)
        writer.write_eof()
        assert await reader.read() == b"ba" * 200_000
        assert (await near.end(number)).outcome is Outcome.DONE
        assert (await far.end(number)).outcome is Outcome.DONE
        writer.close()
        await writer.wait_closed()
    server.close()
    await far.settled()
    await near.settled()


async def test_a_refused_hop_hands_the_lane_back(make_link: LinkMaker) -> None:
    """REFUSED at the far end hands the lane back with nothing of the visit lost, to be refused in turn."""
    far = await make_link()
    near = await make_link(sizes=SpareSizes(quiet=0, busy=0))
    await relayed(near, far)
    address = near.visitors()
    _, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"hello")
    end = await far.end()
    assert (end.outcome, end.reason) == (Outcome.REFUSED, RefusalReason.NOT_HERE)
    lane_of(end).refuse(RefusalReason.NOT_HERE)
    end = await near.end()
    assert end.outcome is Outcome.REFUSED
    assert await stream_of(end).first_bytes(1.0) == b"hello"
    stream_of(end).abort()
    writer.close()


async def test_a_visitor_that_leaves_is_reset_over_the_hop(make_link: LinkMaker) -> None:
    """RESET crosses both lanes, and both are idle afterwards."""
    far = await make_link()
    near = await make_link(sizes=SpareSizes(quiet=0, busy=0))
    await relayed(near, far)
    gone = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        assert await broken_off(reader) == b""
        gone.set()
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    far.serve_with(server.sockets[0].getsockname()[1])
    address = near.visitors()
    visitor = socket.create_connection((address.host, address.port))
    assert await asyncio.to_thread(visitor.recv, 1) == b"x"
    reset(visitor)
    await gone.wait()
    server.close()
    await far.settled()
    await near.settled()
