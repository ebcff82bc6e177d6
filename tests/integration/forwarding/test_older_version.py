"""Version 1 of the lane protocol, before clients signed claims: refused by its number, and nothing of it counts."""

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_VERSION, Ask, Failure, Hello, Park, Peer, Routes
from portway_proto.wire.frames import FrameType, encode_frame
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.hand_grants import grants_of
from portway_testkit.clusters.mesh import identity
from portway_testkit.links.hand_lane import HandLane

# As version 1 encoded it: request 1, a label, epoch 1, and the 32 bytes of a proof out of a chain of hashes.
_BIND_1 = encode_frame(FrameType.BIND, b"\x08\x01\x12\x10" + b"a" * 16 + b"\x18\x01\x22\x20" + bytes(32))


def refused(lane: HandLane, sent: bytes) -> None:
    """Send it in one piece; FAIL VERSION is all that comes before the node closes the lane."""
    frames: list[tuple[int, bytes]] = []
    lane.send(sent)
    while True:
        try:
            frames.append(lane.hear())
        except EOFError:
            break
    ((frame_type, payload),) = frames
    assert frame_type == FrameType.FAIL
    failure = Failure.FromString(payload)
    assert failure.code == FAILURE_CODE_VERSION
    assert "this node speaks version 2 " in failure.message
    assert failure.retry_after_ms == 0


def test_hello(mesh: Cluster) -> None:
    """Its grant is good; neither a BIND nor the HELLO of version 2 that follows at once is heard."""
    node, grant = mesh.nodes["fra-1"], grants_of(mesh).new()
    with HandLane(node, mesh.ca) as lane:
        older = Hello(version=1, grant=grant.token, client_version="0.1.0").SerializeToString()
        newer = lane.hello(grant).SerializeToString()
        refused(lane, encode_frame(FrameType.HELLO, older) + _BIND_1 + encode_frame(FrameType.HELLO, newer))
    assert node.metrics()["sessions"] == 0


def test_park(mesh: Cluster) -> None:
    """Its session is there, and has no lane by it."""
    node = mesh.nodes["fra-1"]
    with HandLane(node, mesh.ca) as control, HandLane(node, mesh.ca) as lane:
        session = control.begin(grants_of(mesh))
        parks = [
            Park(version=version, session_id=session.session_id, session_secret=session.session_secret)
            for version in (1, 2)
        ]
        refused(lane, b"".join(encode_frame(FrameType.PARK, park.SerializeToString()) for park in parks))
        assert control.answers()


@pytest.mark.parametrize("control", [True, False], ids=["control", "visits"])
def test_peer(mesh: Cluster, control: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Its certificate is good; questions, news and the PEER of version 2 that follow at once are not heard."""
    mesh.nodes["fra-2"].dial_no_more("fra-1")
    asks = encode_frame(FrameType.ASK, Ask(request=1, label="a" * 16).SerializeToString())
    tells = encode_frame(FrameType.ROUTES, Routes(number=1, whole=True).SerializeToString())
    peers = [
        encode_frame(FrameType.PEER, Peer(version=version, control=control).SerializeToString()) for version in (1, 2)
    ]
    with HandLane(mesh.nodes["fra-1"], mesh.ca, identity(mesh, "fra-2")) as lane:
        refused(lane, peers[0] + asks + peers[1] + asks + tells)
    said = [record.message for record in caplog.records if getattr(record, "node", "") == "fra-2"]
    assert said.count("a node is refused") == 1
    assert "a node broke the protocol" not in said
