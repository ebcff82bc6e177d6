"""What a lane may send before its first frame, and how much after it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from portway_carrier.contract import Carrier, Lane
from portway_carrier.errors import ProtocolViolation
from portway_carrier.values import Limits, ServerTls
from portway_proto.wire.frames import (
    FrameType,
    data_header,
    encode_frame,
    encode_number,
)
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import MAX_CONTROL
from portway_testkit.links.carrier_link import (
    CarrierLink,
    CarrierMaker,
    RawAcceptorMaker,
    RawLane,
    Recorder,
    listener,
    reset,
)


class FakeBudget:
    """Remembers what is charged, and answers what a test has set."""

    unread = 8 * 1024

    def __init__(self, *seconds: float) -> None:
        self.charged: list[tuple[int, int]] = []
        self.charged_at: list[float] = []  # by the loop's clock
        self._seconds = list(seconds)

    def charge(self, frames: int, size: int) -> float:
        self.charged.append((frames, size))
        self.charged_at.append(asyncio.get_running_loop().time())
        return self._seconds.pop(0) if self._seconds else 0.0


PING_FRAME = encode_frame(FrameType.PING, b"12345678")


@asynccontextmanager
async def lane_of_a_stranger(
    carrier: Carrier, server_tls: ServerTls, trusting: ssl.SSLContext, *, greeted: bool
) -> AsyncIterator[tuple[RawLane, Lane, Recorder]]:
    """A lane that this carrier has accepted, its far end driven by hand."""
    sock = listener()
    connecting = asyncio.ensure_future(
        asyncio.open_connection(*sock.getsockname(), ssl=trusting, server_hostname="node.test")
    )
    connection, _ = await asyncio.get_running_loop().sock_accept(sock)
    stream = carrier.accept(connection, server_tls)
    far = RawLane(*await connecting)
    await stream.ready()
    events = Recorder()
    yield far, carrier.lane(stream, Side.OPENER, events, greeted=greeted), events
    far.writer.close()
    sock.close()


async def test_before_its_first_frame_a_lane_gets_no_answer(
    make_carrier: CarrierMaker, server_tls: ServerTls, trusting: ssl.SSLContext
) -> None:
    """PINGs are answered once a frame has come that is the owner's to judge."""
    async with lane_of_a_stranger(make_carrier(), server_tls, trusting, greeted=False) as (far, lane, events):
        far.send(PING_FRAME * 3)
        far.send(encode_frame(FrameType.HELLO, b"hello"))
        await events.until(lambda: bool(events.frames))
        lane.send(FrameType.WELCOME, b"welcome")
        assert await far.frame() == (FrameType.WELCOME, b"welcome")
        far.send(PING_FRAME)
        assert await far.frame() == (FrameType.PONG, b"12345678")


@pytest.mark.parametrize("flood", [PING_FRAME, b"\xff\0\0\0"], ids=["PING", "unknown frames"])
async def test_before_its_first_frame_a_lane_takes_no_more_than_one(
    make_carrier: CarrierMaker, server_tls: ServerTls, trusting: ssl.SSLContext, flood: bytes
) -> None:
    """A lane on which more arrives than the largest first frame is closed."""
    async with lane_of_a_stranger(make_carrier(), server_tls, trusting, greeted=False) as (far, _, events):
        far.send(flood * (2 * MAX_CONTROL // len(flood)))
        await events.until(lambda: bool(events.closed))
        assert isinstance(events.closed[0], ProtocolViolation)
        assert not events.frames


async def test_pings_that_arrive_together_are_answered_once(
    make_carrier: CarrierMaker, server_tls: ServerTls, trusting: ssl.SSLContext
) -> None:
    """One PONG, of the last one's payload."""
    async with lane_of_a_stranger(make_carrier(), server_tls, trusting, greeted=True) as (far, lane, events):
        far.send(PING_FRAME * 100 + encode_frame(FrameType.PING, b"the last"))
        far.send(encode_frame(FrameType.HELLO, b"hello"))
        await events.until(lambda: bool(events.frames))
        lane.send(FrameType.WELCOME)
        assert await far.frame() == (FrameType.PONG, b"the last")
        assert await far.frame() == (FrameType.WELCOME, b"")


async def test_a_lane_above_its_budget_is_not_read_for_a_while(
    make_carrier: CarrierMaker, server_tls: ServerTls, trusting: ssl.SSLContext
) -> None:
    """Frames and bytes outside visits are charged as they are read; what comes next is read when the time is over."""
    pause = 0.3
    budget = FakeBudget(pause)
    async with lane_of_a_stranger(make_carrier(), server_tls, trusting, greeted=True) as (far, lane, events):
        lane.charge_to(budget)
        far.send(PING_FRAME * 10)
        assert (await far.frame())[0] == FrameType.PONG
        assert budget.charged == [(10, 10 * len(PING_FRAME))]
        far.send(encode_frame(FrameType.UNBIND, b"later"))
        await events.until(lambda: bool(events.frames))
        first, second = budget.charged_at
        assert second - first > pause * 0.8
        assert budget.charged[1:] == [(1, 9)]


async def test_a_lane_that_is_read_slowly_shows_life(
    make_carrier: CarrierMaker, server_tls: ServerTls, trusting: ssl.SSLContext
) -> None:
    """Twice in the time in which its peer expects it: the peer's own PINGs wait behind what is not read."""
    budget = FakeBudget(*[0.01] * 100)
    limits = Limits(ping_interval=0.4)
    async with lane_of_a_stranger(make_carrier(limits), server_tls, trusting, greeted=True) as (far, lane, _):
        lane.charge_to(budget)
        clock = asyncio.get_running_loop()
        for _ in range(2):
            began = clock.time()
            shown = asyncio.ensure_future(far.reader.readexactly(len(PING_FRAME)))
            while not shown.done():
                far.send(encode_frame(FrameType.UNBIND, b"one more"))
                await asyncio.sleep(0.02)
            assert (await shown)[0] == FrameType.PING  # the type is the first byte
        assert clock.time() - began > limits.ping_interval / 2 * 0.8


async def test_a_lane_far_above_its_budget_is_closed(
    make_carrier: CarrierMaker, server_tls: ServerTls, trusting: ssl.SSLContext
) -> None:
    """It could not be told from a dead one while it is left unread. Bytes of frames that are skipped count too."""
    carrier = make_carrier()
    async with lane_of_a_stranger(carrier, server_tls, trusting, greeted=True) as (far, lane, events):
        budget = FakeBudget(Limits().ping_interval + 1)
        lane.charge_to(budget)
        far.send(b"\xff\0\0\0" * 100)
        await events.until(lambda: bool(events.closed))
        assert isinstance(events.closed[0], ProtocolViolation)
        assert budget.charged == [(0, 400)]


async def test_the_frames_of_visits_are_not_charged(link: CarrierLink, raw_acceptor: RawAcceptorMaker) -> None:
    """However small its pieces are, and with the PING that crossed its OPEN alone charged."""
    lane: RawLane = await raw_acceptor(link)
    budget = FakeBudget()
    link.lanes[-1].charge_to(budget)
    at = link.visitors()
    reader, writer = await asyncio.open_connection(at.host, at.port)
    assert (await lane.frame())[0] == FrameType.OPEN
    lane.send(PING_FRAME + encode_number(FrameType.OPENED, 1))
    lane.send((data_header(1) + b"x") * 1_000 + encode_number(FrameType.END, 1))
    assert await reader.readexactly(1_000) == b"x" * 1_000
    reset(writer)
    await link.end()
    assert budget.charged == [(1, len(PING_FRAME))]
