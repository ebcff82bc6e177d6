"""Lanes that do not begin as they must: the node closes them, and says why where it can."""

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_PROTOCOL, FAILURE_CODE_SESSION, FAILURE_CODE_VERSION, Welcome
from portway_proto.wire.frames import FrameType, encode_frame, encode_number
from portway_proto.wire.limits import MAX_CONTROL, PROTOCOL_VERSION
from portway_proto.wire.statements import SigningKey
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.hand_grants import Grants
from portway_testkit.links.hand_lane import BROKEN_FRAMES, HandLane, HandSession

# `tunnel` is of a client that behaves: that one is served before and after each test.
pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("tunnel")]

UNKNOWN_BUT_SKIPPED = encode_frame(0xFE, b"of a later version") + encode_frame(0xFF, bytes(MAX_CONTROL))
# Before the first frame no more bytes may come than one frame has.
SKIPPED_BEFORE_HELLO = encode_frame(0xFE, b"of a later version") + encode_frame(0xFF, bytes(MAX_CONTROL // 2))


@pytest.mark.parametrize("sent", BROKEN_FRAMES.values(), ids=BROKEN_FRAMES.keys())
def test_a_lane_that_begins_with_what_is_no_frame(lane: HandLane, sent: bytes) -> None:
    """It is closed at the frame's header, whatever was to follow."""
    lane.send(sent)
    lane.ending()


OTHER_FRAMES = {
    "BIND": encode_frame(FrameType.BIND),
    "GOAWAY": encode_frame(FrameType.GOAWAY),
    "MOVED": encode_frame(FrameType.MOVED),
    "WELCOME, the node's own": encode_frame(FrameType.WELCOME),
    "HELLO that is no Hello": encode_frame(FrameType.HELLO, b"\xff" * 20),
    "PARK that is no Park": encode_frame(FrameType.PARK, b"\x0a\xff"),
}


@pytest.mark.parametrize("sent", OTHER_FRAMES.values(), ids=OTHER_FRAMES.keys())
def test_a_lane_that_begins_with_another_frame(lane: HandLane, sent: bytes) -> None:
    """HELLO or PARK comes first: the node says so and closes."""
    lane.send(sent)
    failure = lane.ending()
    assert failure is not None
    assert failure.code == FAILURE_CODE_PROTOCOL
    assert failure.message


VISITS_FRAMES = {
    "OPEN": encode_frame(FrameType.OPEN, bytes(20)),
    "OPENED": encode_number(FrameType.OPENED, 1),
    "END": encode_number(FrameType.END, 1),
    "DATA": encode_frame(FrameType.DATA, b"hello"),
}


@pytest.mark.parametrize("sent", VISITS_FRAMES.values(), ids=VISITS_FRAMES.keys())
def test_a_visits_frame_before_anything_else(lane: HandLane, sent: bytes) -> None:
    """No visit can be where nobody is known: the lane is closed."""
    lane.send(sent)
    lane.ending()


def test_a_first_frame_that_never_ends(hasty: Cluster) -> None:
    """A lane on which the first frame has not come whole in time is dropped, even when every byte but one was sent."""
    with HandLane(hasty.node, hasty.ca) as lane:
        lane.send(encode_frame(FrameType.HELLO, b"x" * 1_000)[:-1])
        assert lane.ending() is None


def test_a_lane_that_says_nothing(hasty: Cluster) -> None:
    """The same goes for one that shook hands and was silent since."""
    with HandLane(hasty.node, hasty.ca) as lane:
        assert lane.ending() is None


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1, 2**32 - 1])
@pytest.mark.parametrize("first", ["HELLO", "PARK"])
def test_another_version(lane: HandLane, grant: Grants, version: int, first: str) -> None:
    """A version that the node does not speak is refused with one that says which it speaks."""
    if first == "HELLO":
        lane.say_hello(grant, version=version)
    else:
        lane.park(Welcome(session_id=bytes(16), session_secret=bytes(32)), version=version)
    failure = lane.ending()
    assert failure is not None
    assert failure.code == FAILURE_CODE_VERSION
    assert f"version {PROTOCOL_VERSION} " in failure.message


def test_types_of_later_versions_are_skipped(lane: HandLane, grant: Grants) -> None:
    """Frames from 0x80 up that nobody knows are passed over, before HELLO and after it."""
    lane.send(SKIPPED_BEFORE_HELLO)
    lane.begin(grant)
    lane.send(UNKNOWN_BUT_SKIPPED)
    assert lane.bind(SigningKey()).host


def test_a_wrong_secret_and_an_unknown_session_look_alike(cluster: Cluster, session: HandSession) -> None:
    """PARK with a session's id and not its secret is answered as if there were no such session."""
    welcome = session.welcome
    answers = []
    for session_id, secret in (
        (welcome.session_id, bytes(32)),
        (welcome.session_id, welcome.session_secret[:-1]),
        (welcome.session_id, b""),
        (bytes(16), welcome.session_secret),
        (b"", b""),
    ):
        with HandLane(cluster.node, cluster.ca) as lane:
            lane.park(Welcome(session_id=session_id, session_secret=secret))
            answers.append(lane.ending())
    assert answers[0] is not None
    assert answers[0].code == FAILURE_CODE_SESSION
    assert answers == [answers[0]] * len(answers)
    assert session.control.answers()
