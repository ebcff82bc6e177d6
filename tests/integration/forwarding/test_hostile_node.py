"""A node that was broken into: it holds a node's certificate, has seen proofs, and gets nobody's visitors by it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_PROTOCOL,
    FAILURE_CODE_VERSION,
    Answer,
    Ask,
    Gone,
    Peer,
    Routes,
)
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.frames import FrameType, Opening, RefusalReason, decode_refused, encode_open
from portway_proto.wire.labels import Chain
from portway_registry.pki.ca_folder import CaFolder
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.mesh import identity
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.visitors.mesh_visitors import answered_by

NAMES = ("fra-1", "fra-2", "iad-1")

Bind = Callable[..., HandTunnel]
Dial = Callable[..., HandLane]


def claim(chain: Chain, epoch: int, node: str = "fra-2", proof: bytes | None = None) -> TunnelInfo:
    proof = chain.proof(epoch) if proof is None else proof
    return TunnelInfo(label=chain.label, node=node, region="fra", epoch=epoch, proof=proof)


def tell(lane: HandLane, *tunnels: TunnelInfo, gone: tuple[Gone, ...] = ()) -> None:
    """Say it, and wait until it was heard: an answer to what is asked after it has come."""
    lane.say(FrameType.ROUTES, Routes(bound=tunnels, gone=gone).SerializeToString())
    lane.say(FrameType.ASK, Ask(request=1, label="a").SerializeToString())
    assert lane.hear() == (FrameType.ANSWER, Answer(request=1).SerializeToString())


@pytest.fixture
def dial(mesh: Cluster) -> Iterator[Dial]:
    """Lanes to a node, with the certificate of another one."""
    lanes: list[HandLane] = []

    def make(to: str, *, control: bool | None, of: str = "fra-2", version: int = 1) -> HandLane:
        if control:
            mesh.nodes[of].dial_no_more(to)
        lanes.append(lane := HandLane(mesh.nodes[to], mesh.ca, identity(mesh, of)))
        if control is not None:
            lane.say(FrameType.PEER, Peer(version=version, control=control).SerializeToString())
        return lane

    yield make
    for lane in lanes:
        lane.close()


def test_an_equal_epoch_takes_no_label_from_its_home(mesh: Cluster, bind: Bind, dial: Dial) -> None:
    """Whoever saw a proof can show it: the home node goes on with its own."""
    chain = Chain()
    tunnel = bind(mesh, "fra-1", "own", chain, 2)
    lane = dial("fra-1", control=True)
    for epoch in (1, 2):
        tell(lane, claim(chain, epoch))
    assert {answered_by(mesh, at, tunnel.host) for at in NAMES} == {"own"}
    assert tunnel.unbound is None


def test_an_equal_epoch_takes_no_visitors_from_a_third_node(mesh: Cluster, bind: Bind, dial: Dial) -> None:
    """Two that claim one epoch are told apart by a registry, however often it is claimed, and whoever came first."""
    chain, second = Chain(), Chain()
    tunnel = bind(mesh, "iad-1", "own", chain, 2)
    assert answered_by(mesh, "fra-1", tunnel.host) == "own"
    lane = dial("fra-1", control=True)
    for _ in range(3):
        tell(lane, claim(chain, 2))
        assert answered_by(mesh, "fra-1", tunnel.host) == "own"
    other = bind(mesh, "iad-1", "other", second, 1)
    for at in ("iad-1", "fra-1"):
        assert answered_by(mesh, at, other.host) == "other"


def test_a_proof_cannot_be_forged(mesh: Cluster, bind: Bind, dial: Dial) -> None:
    """A higher epoch needs what only the client has."""
    chain = Chain()
    tunnel = bind(mesh, "iad-1", "own", chain, 2)
    assert answered_by(mesh, "fra-1", tunnel.host) == "own"
    lane = dial("fra-1", control=True)
    for proof in (chain.proof(2), bytes(32), b"", bytes(31)):
        tell(lane, claim(chain, 3, proof=proof), claim(chain, 4096, proof=proof), claim(chain, 0, proof=proof))
    assert answered_by(mesh, "fra-1", tunnel.host) == "own"


def test_a_node_speaks_for_itself_alone(mesh: Cluster, bind: Bind, dial: Dial) -> None:
    """What it says of another node's tunnels, come or gone, is not believed."""
    chain = Chain()
    tunnel = bind(mesh, "iad-1", "own", chain, 2)
    assert answered_by(mesh, "fra-1", tunnel.host) == "own"
    lane = dial("fra-1", control=True)
    tell(lane, claim(chain, 3, node="iad-1"), claim(chain, 4, node="fra-1"), gone=(Gone(label=chain.label, epoch=9),))
    late = bind(mesh, "fra-1", "late", chain, 3)
    assert late.refused is None
    assert answered_by(mesh, "fra-1", tunnel.host) == "late"


def test_an_old_epoch_does_not_come_back(mesh: Cluster, bind: Bind, dial: Dial) -> None:
    """When its holder has gone the label is nobody's, whoever shows a proof of before."""
    chain = Chain()
    tunnel = bind(mesh, "fra-1", "own", chain, 3)
    tunnel.leave()
    lane = dial("fra-1", control=True)
    tell(lane, claim(chain, 2), claim(chain, 3))
    again = bind(mesh, "fra-1", "again", chain, 4)
    assert answered_by(mesh, "fra-1", again.host) == "again"


def test_a_visit_is_not_sent_on(mesh: Cluster, bind: Bind, dial: Dial) -> None:
    """A node that knows where a label is refuses a mesh visit of it: one hop, never a loop."""
    tunnel = bind(mesh, "iad-1", "far")
    assert answered_by(mesh, "fra-1", tunnel.host) == "far"
    lane = dial("fra-1", control=False)
    lane.send(encode_open(1, Opening(tunnel.host.partition(".")[0], "192.0.2.1", 1)))
    frame_type, payload = lane.hear()
    assert frame_type == FrameType.REFUSED
    assert decode_refused(payload)[0] is RefusalReason.NOT_HERE


@pytest.mark.parametrize(
    ("control", "frame"),
    [
        (None, FrameType.ROUTES),
        (None, FrameType.HELLO),
        (None, FrameType.PARK),
        (False, FrameType.ROUTES),
        (False, FrameType.ASK),
        (False, FrameType.PEER),
        (True, FrameType.PEER),
        (True, FrameType.ANSWER),
        (True, FrameType.BIND),
        (True, FrameType.WANT),
    ],
)
def test_a_frame_out_of_place_ends_its_lane(dial: Dial, control: bool | None, frame: FrameType) -> None:
    """And says why."""
    lane = dial("fra-1", control=control)
    lane.say(frame)
    failure = lane.ending()
    assert failure is not None
    assert failure.code == FAILURE_CODE_PROTOCOL


@pytest.mark.parametrize("payload", [b"\xff", b"\x0a\xff\x01"])
def test_a_payload_that_cannot_be_read_ends_its_lane(dial: Dial, payload: bytes) -> None:
    """The node goes on without it."""
    lane = dial("fra-1", control=True)
    lane.say(FrameType.ROUTES, payload)
    failure = lane.ending()
    assert failure is not None
    assert failure.code == FAILURE_CODE_PROTOCOL


@pytest.mark.parametrize("control", [None, True])
def test_an_opening_out_of_place_ends_its_lane(dial: Dial, control: bool | None) -> None:
    """Visits come on data lanes, after PEER."""
    lane = dial("fra-1", control=control)
    lane.send(encode_open(1, Opening("a" * 16, "192.0.2.1", 1)))
    assert lane.ending() is None


def test_another_version_is_refused(dial: Dial) -> None:
    """By name."""
    failure = dial("fra-1", control=True, version=2).ending()
    assert failure is not None
    assert failure.code == FAILURE_CODE_VERSION


def test_a_certificate_that_is_no_nodes_opens_no_lane(mesh: Cluster) -> None:
    """The registry's is the cluster's too, and it is no node."""
    with HandLane(mesh.nodes["fra-1"], mesh.ca, (mesh.pki / "registry.crt", mesh.pki / "registry.key")) as lane:
        lane.say(FrameType.PEER, Peer(version=1, control=True).SerializeToString())
        assert lane.ending() is None


def test_a_certificate_of_another_cluster_opens_no_lane(mesh: Cluster, tmp_path: Path) -> None:
    """Whatever name it is for."""
    other = CaFolder.create(tmp_path)
    other.add_node("fra-2")
    with HandLane(mesh.nodes["fra-1"], mesh.ca, (tmp_path / "node-fra-2.crt", tmp_path / "node-fra-2.key")) as lane:
        assert lane.ending() is None
