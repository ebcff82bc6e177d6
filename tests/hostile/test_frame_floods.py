"""Frames outside visits, as fast as they can be made: before the first frame of a lane, and within a session."""

import statistics
from collections.abc import Callable

import pytest
from google.protobuf.message import Message
from portway_proto.v1.lane_pb2 import Bind, Moved, Unbind
from portway_proto.wire.frames import FrameType, encode_frame
from portway_proto.wire.limits import LINK_ALPN, MAX_CONTROL, PROTOCOL_VERSION
from portway_relay.config import NodeLimits
from portway_testkit.clusters.hand_grants import Grants, HandGrant
from portway_testkit.signers import SessionSigner
from portway_testkit.visitors.flooder import RECORD, Flood, Flooder, FloodReport
from portway_testkit.visitors.lane_flood import lane_to
from portway_testkit.visitors.siege import MARKS, Besieged
from portway_testkit.waiting import eventually

pytestmark = MARKS

PING = encode_frame(FrameType.PING, b"12345678")
RATE = 1_000_000  # bytes per second
ROUNDS = 5  # of a second each
# Of what a lane may send at once. The node may lag a little behind what was sent.
USED_UP = 1.25
# 0.01 was measured; without budgets 0.1 to 0.3.
MOST_OF_A_CORE = 0.05
# Twenty handshakes per second at the most, as the attacker pauses between two lanes; 0.07 was measured.
MOST_OF_A_CORE_FOR_HANDSHAKES = 0.25
MOST_OF_A_CORE_PER_LANE = MOST_OF_A_CORE_FOR_HANDSHAKES / 20  # for each one per second


@pytest.fixture
def flood(besieged: Besieged) -> Callable[..., Flood]:
    def make(frames: bytes, rate: int, *, grant: HandGrant | None = None) -> Flood:
        first = b""
        if grant is not None:
            node = besieged.server_name.partition(".")[0]
            hello = grant.hello(node, certificate(besieged), version=PROTOCOL_VERSION)
            first = encode_frame(FrameType.HELLO, hello.SerializeToString())
        ca = str(besieged.ca)
        return Flood(besieged.host, besieged.port, besieged.server_name, ca, rate, frames.hex(), first.hex())

    return make


def test_pings_before_the_first_frame_are_not_answered(besieged: Besieged, flood: Callable[..., Flood]) -> None:
    """A lane that never says HELLO gets no PONG and is closed after as many bytes as a first frame may have. It costs
    its handshake, and visitors are served."""
    with Flooder(flood(PING, RATE)) as flooder:
        flooder.go()
        shares = [besieged.busy(1.0) for _ in range(ROUNDS)]
        besieged.served()
        report = flooder.rest()
    print(f"busy {', '.join(f'{share:.2f}' for share in shares)}; {report}")
    assert report.received == 0
    assert report.lanes > 1
    assert report.sent > MAX_CONTROL
    assert statistics.median(shares) < MOST_OF_A_CORE_FOR_HANDSHAKES


def certificate(besieged: Besieged) -> bytes:
    """The node's, as TLS shows it."""
    with lane_to(besieged, LINK_ALPN) as lane:
        shown = lane.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def frames_of(kind: str) -> bytes:
    signer = SessionSigner()
    claim = signer.claim(node="fra-2")
    presence = signer.present("fra-2").encoded
    messages: dict[str, tuple[FrameType, Message]] = {
        "unbind": (FrameType.UNBIND, Unbind(label=claim.label)),
        "moved": (FrameType.MOVED, Moved(label=claim.label, claim=claim.encoded, presence=presence)),
        "bind": (FrameType.BIND, Bind(request=1, claim=claim.encoded)),
    }
    if kind == "ping":
        return PING
    frame_type, message = messages[kind]
    return encode_frame(frame_type, message.SerializeToString())


def budget_for(report: FloodReport, frame: bytes) -> float:
    """What the frames that were sent take of a lane's budget: one each, and one for each KiB."""
    return report.sent / (len(frame) + RECORD) * (1 + len(frame) / 1024)


@pytest.mark.parametrize("kind", ["ping", "unbind", "moved", "bind"])
def test_a_session_that_floods_its_control_lane_takes_no_time(
    besieged: Besieged, flood: Callable[..., Flood], kind: str
) -> None:
    """PINGs, requests that change nothing and requests that are refused: once its budget is used up the lane is not
    read, and what it sends takes next to no time of the node. What piles up in one read may be too much even to wait
    for: then the lane is closed, and the attacker pays a handshake for each new one, as the node does."""
    frames = frames_of(kind)
    with Flooder(flood(frames, RATE, grant=Grants(besieged.environment).new())) as flooder:
        flooder.go()
        eventually(lambda: budget_for(flooder.go(), frames) > USED_UP * NodeLimits().lane_frame_burst)
        lanes = flooder.go().lanes
        shares = [besieged.busy(1.0) for _ in range(ROUNDS)]
        report = flooder.rest()
    print(f"busy {', '.join(f'{share:.2f}' for share in shares)}; {report}")
    new_lanes_per_second = (report.lanes - lanes) / ROUNDS
    assert statistics.median(shares) < MOST_OF_A_CORE + MOST_OF_A_CORE_PER_LANE * new_lanes_per_second


def test_visitors_are_served_while_a_session_floods_its_control_lane(
    besieged: Besieged, flood: Callable[..., Flood]
) -> None:
    """The tunnel in use goes on, and new visitors are served."""
    figures, report = besieged.flooded(flood(frames_of("unbind"), 300_000, grant=Grants(besieged.environment).new()))
    print(figures, report)
    assert figures.ratio >= 0.8, figures
    assert figures.grown < 16
