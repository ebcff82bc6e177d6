"""Link lanes until they have said who they are: the first frame judged, the number of lanes and their time bounded."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest
from portway_carrier.errors import ConnectionLost, HandshakeFailed
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_GRANT,
    FAILURE_CODE_PROTOCOL,
    FAILURE_CODE_SESSION,
    FAILURE_CODE_VERSION,
    Bind,
    Hello,
    Park,
)
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_relay.errors import GrantRefused, Refused
from portway_runtime.half_open import STALLED_AFTER
from portway_testkit.fakes.fake_visits import Pair
from portway_testkit.fakes.newcomers import Newcomers
from portway_testkit.links.carrier_link import until

HELLO = Hello(version=2, grant="g").SerializeToString()
PARK = Park(version=2, session_id=b"s").SerializeToString()


@pytest.fixture
async def make(connect: Callable[[], Pair]) -> AsyncIterator[Callable[..., Newcomers]]:
    made: list[Newcomers] = []

    def make(*, time_limit: float = 30.0, capacity: int = 10, capacity_per_address: int = 10) -> Newcomers:
        made.append(
            Newcomers(connect, time_limit=time_limit, capacity=capacity, capacity_per_address=capacity_per_address)
        )
        return made[-1]

    yield make
    for newcomers in made:
        await newcomers.greeter.close()
        assert not newcomers.failures


@pytest.fixture
async def newcomers(make: Callable[..., Newcomers]) -> Newcomers:
    return make()


async def test_hello_makes_a_control_lane(newcomers: Newcomers) -> None:
    """What comes on it later, its end included, is told to its session."""
    lane, events = await newcomers.arrive()
    events.frame_received(lane, FrameType.HELLO, HELLO)
    await until(lambda: bool(newcomers.admission.hellos))
    assert newcomers.admission.hellos[0].grant == "g"
    assert len(newcomers.greeter) == 0
    events.frame_received(lane, FrameType.BIND, b"bind")
    end = ConnectionLost("gone")
    events.lane_closed(lane, end)
    assert newcomers.admission.control.told == [(FrameType.BIND, b"bind"), end]
    assert lane.failed is None


async def test_park_makes_a_data_lane(newcomers: Newcomers) -> None:
    """It is given to its session's pool, and is not waited for any more."""
    lane, events = await newcomers.arrive()
    assert len(newcomers.greeter) == 1
    events.frame_received(lane, FrameType.PARK, PARK)
    assert newcomers.admission.parked == [lane]
    assert len(newcomers.greeter) == 0
    assert not lane.closed


@pytest.mark.parametrize("frame_type", [FrameType.PARK, FrameType.HELLO, FrameType.BIND])
async def test_what_came_in_one_piece_with_park_parks_nothing_twice(newcomers: Newcomers, frame_type: int) -> None:
    """A data lane carries visits alone: a second greeting breaks the protocol."""
    lane, events = await newcomers.arrive()
    events.frame_received(lane, FrameType.PARK, PARK)
    events.frame_received(lane, frame_type, PARK)
    assert newcomers.admission.parked == [lane]
    assert not newcomers.admission.hellos
    assert lane.failed is not None
    assert lane.failed.code == FAILURE_CODE_PROTOCOL


@pytest.mark.parametrize(
    ("frame_type", "payload"),
    [
        pytest.param(FrameType.BIND, Bind(request=1).SerializeToString(), id="BIND first"),
        pytest.param(FrameType.WELCOME, b"", id="WELCOME first"),
        pytest.param(0x1B, b"", id="a type nobody knows"),
        pytest.param(FrameType.HELLO, b"\xff\xff", id="a malformed HELLO"),
        pytest.param(FrameType.HELLO, b"\x12\x02\xff\xfe", id="a grant that is no text"),
        pytest.param(FrameType.PARK, b"\x12\x09x", id="a truncated PARK"),
    ],
)
async def test_a_lane_that_begins_with_anything_else_is_failed(
    newcomers: Newcomers, frame_type: int, payload: bytes
) -> None:
    """With PROTOCOL, and nothing else of it is read."""
    lane, events = await newcomers.arrive()
    events.frame_received(lane, frame_type, payload)
    assert lane.failed is not None
    assert lane.failed.code == FAILURE_CODE_PROTOCOL
    events.frame_received(lane, FrameType.HELLO, HELLO)
    assert not newcomers.admission.hellos
    assert len(newcomers.greeter) == 0


@pytest.mark.parametrize("version", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("kind", ["hello", "park"])
async def test_another_version_is_refused_with_those_that_are_spoken(
    newcomers: Newcomers, version: int, kind: str
) -> None:
    """The message names both, and says what to do."""
    lane, events = await newcomers.arrive()
    if kind == "hello":
        events.frame_received(lane, FrameType.HELLO, Hello(version=version, grant="g").SerializeToString())
    else:
        events.frame_received(lane, FrameType.PARK, Park(version=version).SerializeToString())
    assert lane.failed is not None
    assert lane.failed.code == FAILURE_CODE_VERSION
    assert "version 2" in lane.failed.message
    assert f"version {version}" in lane.failed.message
    assert not newcomers.admission.parked
    assert not newcomers.admission.hellos


@pytest.mark.parametrize(
    ("frame_type", "payload", "refusal"),
    [
        (FrameType.HELLO, HELLO, GrantRefused(FAILURE_CODE_GRANT, "expired: get another")),
        (FrameType.PARK, PARK, Refused(FAILURE_CODE_SESSION, "unknown: begin a new one")),
    ],
)
async def test_who_is_not_admitted_is_told_why(
    newcomers: Newcomers,
    caplog: pytest.LogCaptureFixture,
    frame_type: int,
    payload: bytes,
    refusal: Refused,
) -> None:
    """FAIL with the code and the message of the refusal; the log has it without a secret."""
    newcomers.admission.refusal = refusal
    lane, events = await newcomers.arrive()
    with caplog.at_level(logging.INFO, logger="portway_relay"):
        events.frame_received(lane, frame_type, payload)
        await until(lambda: lane.failed is not None)
    assert lane.failed == refusal.failure
    (record,) = caplog.records
    assert record.__dict__["reason"] == refusal.message
    assert record.__dict__["peer"] == lane.peer.host


async def test_a_mistake_of_our_own_is_not_blamed_on_the_client(newcomers: Newcomers) -> None:
    """An error inside ends the node's part, as that of any task; no FAIL says that the frame was bad."""
    newcomers.admission.refusal = ValueError("a bug")
    lane, events = await newcomers.arrive()
    events.frame_received(lane, FrameType.HELLO, HELLO)
    await until(lambda: bool(newcomers.failures))
    assert lane.failed is None
    newcomers.failures.clear()


async def test_frames_wait_until_welcome_was_sent(newcomers: Newcomers) -> None:
    """A client that does not wait for it is served in order."""
    newcomers.admission.checked.clear()
    lane, events = await newcomers.arrive()
    events.frame_received(lane, FrameType.HELLO, HELLO)
    events.frame_received(lane, FrameType.BIND, b"one")
    events.frame_received(lane, FrameType.BIND, b"two")
    assert newcomers.admission.control.told == []
    newcomers.admission.checked.set()
    await until(lambda: len(newcomers.admission.control.told) == 2)
    events.frame_received(lane, FrameType.BIND, b"three")
    assert [payload for _, payload in newcomers.admission.control.told] == [b"one", b"two", b"three"]


async def test_few_frames_wait_for_welcome(newcomers: Newcomers) -> None:
    """Before its sender has shown who it is, nothing is kept without bound."""
    newcomers.admission.checked.clear()
    lane, events = await newcomers.arrive()
    events.frame_received(lane, FrameType.HELLO, HELLO)
    for _ in range(5):
        events.frame_received(lane, FrameType.BIND, b"bind")
    assert lane.failed is not None
    assert lane.failed.code == FAILURE_CODE_PROTOCOL
    newcomers.admission.checked.set()
    await asyncio.sleep(0)
    assert newcomers.admission.hellos == []


async def test_a_client_that_leaves_before_welcome_has_no_session(newcomers: Newcomers) -> None:
    """Its admission is given up."""
    newcomers.admission.checked.clear()
    lane, events = await newcomers.arrive()
    events.frame_received(lane, FrameType.HELLO, HELLO)
    events.lane_closed(lane, ConnectionLost("gone"))
    newcomers.admission.checked.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert newcomers.admission.hellos == []


async def test_who_says_nothing_is_dropped(make: Callable[..., Newcomers]) -> None:
    """After the time limit, which begins with the handshake's end."""
    newcomers = make(time_limit=0.01)
    lane, _ = await newcomers.arrive()
    await until(lambda: lane.aborted)
    assert len(newcomers.greeter) == 0


async def test_who_has_spoken_is_not_dropped(make: Callable[..., Newcomers]) -> None:
    """The time limit is for the first frame alone."""
    newcomers = make(time_limit=3.0)
    lane, events = await newcomers.arrive()
    events.frame_received(lane, FrameType.HELLO, HELLO)
    silent, _ = await newcomers.arrive()
    await until(lambda: silent.aborted)
    assert not lane.closed


async def test_who_goes_before_a_word_is_forgotten(newcomers: Newcomers) -> None:
    """Its place is free again."""
    lane, events = await newcomers.arrive()
    events.lane_closed(lane, ConnectionLost("gone"))
    assert len(newcomers.greeter) == 0


async def test_a_handshake_that_fails_is_forgotten(newcomers: Newcomers) -> None:
    """Scanners come by all day: it is no failure of the node's."""
    newcomers.take()
    await until(lambda: bool(newcomers.carrier.streams))
    newcomers.carrier.streams[-1].fails(HandshakeFailed("garbage"))
    await until(lambda: len(newcomers.greeter) == 0)


async def test_above_the_limit_connections_are_closed(make: Callable[..., Newcomers]) -> None:
    """Those in the handshake count, and those that have not spoken; the next one gets in when one has."""
    newcomers = make(capacity=2)
    lane, events = await newcomers.arrive()
    newcomers.take()
    newcomers.take()
    assert newcomers.greeter.rejected == 1
    assert newcomers.settled == 1, "who is turned away has left no handshake unfinished"
    assert len(newcomers.carrier.streams) == 2
    events.frame_received(lane, FrameType.HELLO, HELLO)
    newcomers.take()
    assert len(newcomers.carrier.streams) == 3


async def test_who_does_not_answer_makes_room(make: Callable[..., Newcomers]) -> None:
    """At the limit newcomers are turned away while those that are there are at it, and let in for those that are not:
    in the handshake, or after it."""
    newcomers = make(capacity=2)
    newcomers.take()
    silent, _ = await newcomers.arrive()
    assert newcomers.greeter.handshakes == 1
    newcomers.clock.now += STALLED_AFTER - 0.1
    newcomers.take()
    assert (newcomers.greeter.rejected, newcomers.greeter.evicted) == (1, 0)
    newcomers.clock.now += 0.2
    newcomers.take()
    newcomers.take()
    assert (newcomers.greeter.rejected, newcomers.greeter.evicted) == (1, 2)
    assert newcomers.carrier.streams[0].aborted
    assert silent.aborted
    assert len(newcomers.greeter) == 2


async def test_one_address_does_not_shut_out_another(make: Callable[..., Newcomers]) -> None:
    """Its own limit is met before everybody's."""
    newcomers = make(capacity=3, capacity_per_address=2)
    for _ in range(3):
        newcomers.take("192.0.2.1")
    newcomers.take("192.0.2.2")
    assert newcomers.greeter.rejected == 1
    assert len(newcomers.carrier.streams) == 3


async def test_closing_drops_who_has_not_spoken(newcomers: Newcomers) -> None:
    """In the handshake or after it; control lanes are their sessions' to close."""
    control, events = await newcomers.arrive()
    events.frame_received(control, FrameType.HELLO, HELLO)
    silent, _ = await newcomers.arrive()
    newcomers.take()
    await asyncio.sleep(0)  # its handshake is waited for now
    await newcomers.greeter.close()
    assert silent.aborted
    assert newcomers.carrier.streams[-1].aborted
    assert len(newcomers.greeter) == 0
    assert not control.closed
    await newcomers.greeter.close()


async def test_no_visit_is_opened_by_a_client(newcomers: Newcomers) -> None:
    """An OPEN is refused: the lane must not stand still."""
    lane, events = await newcomers.arrive()
    events.opening_received(lane, Opening("a" * 16, "192.0.2.1", 1))
    assert lane.refused is RefusalReason.OTHER
