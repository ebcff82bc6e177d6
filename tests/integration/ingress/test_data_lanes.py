"""Data lanes that break the protocol: the lane and its visit end, its session and everybody else go on."""

import ssl

import pytest
from portway_proto.wire.frames import FrameType, encode_frame, encode_number
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.links.carrier_link import reset
from portway_testkit.links.hand_lane import BROKEN_FRAMES, HandLane, HandSession
from portway_testkit.visitors.visiting import visit

# `tunnel` is of a client that behaves: that one is served before and after each test.
pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("tunnel")]


def gone(visitor: ssl.SSLSocket) -> bool:
    """Whether the next that comes is an end, of whatever kind."""
    try:
        return visitor.recv(100) == b""
    except OSError:
        return True


ON_AN_IDLE_LANE = {
    **BROKEN_FRAMES,
    "DATA": encode_frame(FrameType.DATA, b"hello"),
    "OPEN": encode_frame(FrameType.OPEN, bytes(20)),
    "OPENED of no visit": encode_number(FrameType.OPENED, 1),
    "END of no visit": encode_number(FrameType.END, 7),
    "END without a number": encode_frame(FrameType.END),
    "PARK again": encode_frame(FrameType.PARK),
    "HELLO": encode_frame(FrameType.HELLO),
    "BIND": encode_frame(FrameType.BIND),
}


@pytest.mark.parametrize("sent", ON_AN_IDLE_LANE.values(), ids=ON_AN_IDLE_LANE.keys())
def test_an_idle_lane_that_breaks_the_protocol(session: HandSession, sent: bytes) -> None:
    """It is closed, and its session goes on."""
    session.data.send(sent)
    session.data.ending()
    assert session.control.answers()


BEFORE_OPENED = {
    **BROKEN_FRAMES,
    "DATA": encode_frame(FrameType.DATA, b"hello"),
    "END": encode_number(FrameType.END, 1),
    "OPENED of another visit": encode_number(FrameType.OPENED, 2),
    "REFUSED without a reason": encode_number(FrameType.REFUSED, 1),
}
OPENED = encode_number(FrameType.OPENED, 1)
AFTER_OPENED = {
    **BROKEN_FRAMES,
    "OPENED again": OPENED,
    "REFUSED": encode_frame(FrameType.REFUSED, b"\x00\x00\x00\x01\x02"),
    "DATA after END": encode_number(FrameType.END, 1) + encode_frame(FrameType.DATA, b"more"),
    "END of another visit": encode_number(FrameType.END, 2),
    "OPEN": encode_frame(FrameType.OPEN, bytes(20)),
}
WITH_A_VISIT = {f"before OPENED: {name}": sent for name, sent in BEFORE_OPENED.items()} | {
    f"after OPENED: {name}": OPENED + sent for name, sent in AFTER_OPENED.items()
}


@pytest.mark.parametrize("sent", WITH_A_VISIT.values(), ids=WITH_A_VISIT.keys())
def test_a_lane_that_breaks_the_protocol_in_a_visit(cluster: Cluster, session: HandSession, sent: bytes) -> None:
    """Its visitor is broken off, its session goes on, and the next visitor is served on another lane."""
    address = session.public()
    with visit(address, cluster.ca) as visitor:
        assert session.data.hear()[0] == FrameType.OPEN
        session.data.send(sent)
        session.data.ending()
        assert gone(visitor)
    with HandLane(cluster.node, cluster.ca) as fresh:
        fresh.park(session.welcome)
        with visit(address, cluster.ca) as visitor:
            assert fresh.hear()[0] == FrameType.OPEN
            fresh.send(OPENED + encode_frame(FrameType.DATA, b"hello"))
            assert visitor.recv(100) == b"hello"


def test_half_a_frame_of_a_visit(cluster: Cluster, session: HandSession) -> None:
    """What came of DATA before its lane was lost has been passed on; the visitor is broken off then."""
    with visit(session.public(), cluster.ca) as visitor:
        assert session.data.hear()[0] == FrameType.OPEN
        session.data.send(OPENED + encode_frame(FrameType.DATA, b"half of it")[:8])
        assert visitor.recv(100) == b"half"
        session.data.close()
        assert gone(visitor)
    assert session.control.answers()


def test_frames_of_a_visit_that_is_over_are_dropped(cluster: Cluster, session: HandSession) -> None:
    """A late RESET, END or OPENED of the visit before does not disturb the lane's next one."""
    address = session.public()
    lane = session.data
    visitor = visit(address, cluster.ca)
    assert lane.hear()[0] == FrameType.OPEN
    lane.send(OPENED)
    reset(visitor)
    assert lane.hear()[0] == FrameType.RESET
    lane.say(FrameType.RESET, (1).to_bytes(4))
    for late in (FrameType.RESET, FrameType.END, FrameType.OPENED):
        lane.say(late, (1).to_bytes(4))
    with visit(address, cluster.ca) as visitor:
        assert lane.hear()[0] == FrameType.OPEN
        lane.say(FrameType.RESET, (1).to_bytes(4))
        lane.send(encode_number(FrameType.OPENED, 2) + encode_frame(FrameType.DATA, b"hello"))
        assert visitor.recv(100) == b"hello"
