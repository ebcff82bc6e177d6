"""Control lanes that break the protocol: the lane ends, its session can be taken up again, nobody else notices."""

import pytest
from portway_proto.v1.lane_pb2 import Unbind
from portway_proto.wire.frames import FrameType, encode_frame, encode_number
from portway_proto.wire.statements import SigningKey
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.hand_grants import Grants
from portway_testkit.links.hand_lane import BROKEN_FRAMES, HandLane, HandSession
from portway_testkit.visitors.visiting import visit

# `tunnel` is of a client that behaves: that one is served before and after each test.
pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("tunnel")]


OUT_OF_PLACE = {
    **BROKEN_FRAMES,
    "DATA": encode_frame(FrameType.DATA, b"hello"),
    "OPENED of no visit": encode_number(FrameType.OPENED, 1),
    "a second HELLO": encode_frame(FrameType.HELLO),
    "PARK": encode_frame(FrameType.PARK),
    "WANT, the node's own": encode_frame(FrameType.WANT),
    "BIND that is no Bind": encode_frame(FrameType.BIND, b"\xff" * 20),
    "UNBIND that is no Unbind": encode_frame(FrameType.UNBIND, b"\x0a\xff"),
}


@pytest.mark.parametrize("sent", OUT_OF_PLACE.values(), ids=OUT_OF_PLACE.keys())
def test_a_control_lane_that_breaks_the_protocol(
    cluster: Cluster, session: HandSession, grant: Grants, sent: bytes
) -> None:
    """It is closed; the session stays for a while, and a client that behaves takes it up again."""
    session.control.bind(SigningKey())
    session.control.send(sent)
    session.control.ending()
    with HandLane(cluster.node, cluster.ca) as control:
        assert control.begin(grant, session.welcome).resumed


def test_half_a_frame_and_then_the_end(cluster: Cluster, session: HandSession, grant: Grants) -> None:
    """A control lane that ends in the middle of a frame is away like any other; the half frame has no effect."""
    address = session.public()
    unbind = Unbind(label=address.host.partition(".")[0]).SerializeToString()
    session.control.send(encode_frame(FrameType.UNBIND, unbind)[:-1])
    session.control.close()
    with HandLane(cluster.node, cluster.ca) as control:
        assert control.begin(grant, session.welcome).resumed
        with visit(address, cluster.ca):
            assert session.data.hear()[0] == FrameType.OPEN
