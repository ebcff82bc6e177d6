"""A session's control lane: which frames it takes, and what ends it."""

import pytest
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_PROTOCOL,
    BindRefused,
    Bound,
    Goaway,
    Hello,
    Park,
    Presence,
    Unbound,
    Want,
    Welcome,
)
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_proto.wire.statements import SigningKey
from portway_testkit.fakes.node_lanes import FakeLane
from portway_testkit.fakes.node_sessions import NodeSessions
from portway_testkit.signers import SessionSigner, label_of


async def test_without_a_control_lane_nobody_waits_for_lanes(node: NodeSessions, key: SigningKey) -> None:
    """WANT goes out on the control lane of now, or on none."""
    client = await node.attach()
    pool = node.carrier.pools[0]
    assert pool.control is client.lane
    client.lose()
    assert pool.control is None
    assert (await node.attach(resume=client.welcome)).lane is pool.control


BREACHES = [
    pytest.param(FrameType.HELLO, Hello(version=2).SerializeToString(), id="HELLO again"),
    pytest.param(FrameType.PARK, Park(version=2).SerializeToString(), id="PARK"),
    pytest.param(FrameType.WELCOME, Welcome().SerializeToString(), id="WELCOME"),
    pytest.param(FrameType.BOUND, Bound(request=1).SerializeToString(), id="BOUND"),
    pytest.param(FrameType.BIND_REFUSED, BindRefused(request=1).SerializeToString(), id="BIND_REFUSED"),
    pytest.param(FrameType.UNBOUND, Unbound().SerializeToString(), id="UNBOUND"),
    pytest.param(FrameType.WANT, Want(lanes=1).SerializeToString(), id="WANT"),
    pytest.param(0x1B, b"", id="a type nobody knows"),
    pytest.param(FrameType.PRESENCE, b"\xff", id="a malformed PRESENCE"),
    pytest.param(FrameType.PRESENCE, Presence(statement=b"short").SerializeToString(), id="a presence of no form"),
    pytest.param(
        FrameType.PRESENCE,
        Presence(statement=SessionSigner().present("relay-1").encoded).SerializeToString(),
        id="a presence of another session",
    ),
    pytest.param(FrameType.BIND, b"\xff\xff\xff", id="a malformed BIND"),
    pytest.param(FrameType.BIND, b"\x12\x02\xff", id="a truncated BIND"),
    pytest.param(FrameType.UNBIND, b"\x0a\xff", id="a truncated UNBIND"),
    pytest.param(FrameType.UNBIND, b"\x0a\x02\xff\xfe", id="a label that is no text"),
    pytest.param(FrameType.GOAWAY, b"\x0a\x05x", id="a truncated GOAWAY"),
    pytest.param(FrameType.MOVED, b"\x0a\xff", id="a truncated MOVED"),
]


@pytest.mark.parametrize(("frame_type", "payload"), BREACHES)
async def test_a_breach_of_the_protocol_ends_the_lane_and_not_the_session(
    node: NodeSessions, key: SigningKey, frame_type: int, payload: bytes
) -> None:
    """FAIL with PROTOCOL; the session may be resumed with a lane that works, and its tunnels are there."""
    client = await node.attach()
    await client.bind(key)
    client.send(frame_type, payload)
    assert client.lane.failed is not None
    assert client.lane.failed.code == FAILURE_CODE_PROTOCOL
    assert node.sessions.away == 1
    client.send(FrameType.GOAWAY, Goaway())
    client.lose()
    assert node.sessions.away == 1, "what follows on the lane is not read"
    again = await node.attach(resume=client.welcome)
    assert again.welcome.resumed
    assert node.tunnels.live(label_of(key)) is not None


@pytest.mark.parametrize(("frame_type", "payload"), BREACHES)
async def test_a_lane_that_was_replaced_can_break_nothing(node: NodeSessions, frame_type: int, payload: bytes) -> None:
    """It has nothing to say any more."""
    client = await node.attach()
    again = await node.attach(resume=client.welcome)
    client.send(frame_type, payload)
    assert again.lane.failed is None
    assert node.sessions.away == 0


async def test_no_visit_is_opened_on_a_control_lane(node: NodeSessions) -> None:
    """Were one to come, it would be refused: the lane must not stand still."""
    client = await node.attach()
    lane = FakeLane()
    client.session.opening_received(lane, Opening("a" * 16, "192.0.2.1", 1))
    assert lane.refused is RefusalReason.OTHER
