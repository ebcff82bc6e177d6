"""A lane with a node's certificate: what it may say, and what it says of labels that it has seen.

What a whole node that was broken into gets by it is in hostile/mesh.
"""

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from portway_proto.wire.frames import FrameType, Opening, RefusalReason, decode_refused, encode_open
from portway_proto.wire.limits import PROTOCOL_VERSION
from portway_proto.wire.statements import Claim, Presence, SigningKey, read_claim
from portway_registry.pki.ca_folder import CaFolder
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.hand_grants import HandGrant
from portway_testkit.clusters.mesh import identity
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.signers import SessionSigner, label_of, tunnel_info
from portway_testkit.visitors.mesh_visitors import answered_by
from portway_testkit.waiting import eventually

NAMES = ("fra-1", "fra-2", "iad-1")

Bind = Callable[..., HandTunnel]
Dial = Callable[..., HandLane]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a node has seen of a tunnel: a claim, and a presence that lists it."""

    claim: Claim
    presence: Presence

    @classmethod
    def of(cls, tunnel: HandTunnel) -> "Seen":
        (claim,) = tunnel.grant.signer.held
        return cls(claim, tunnel.grant.presented[-1])

    def re_signed(self, node: str, cluster: bytes) -> "Seen":
        """The presence of a client of the node's own, which lists the claim as if it were its."""
        own = SessionSigner(cluster)
        return Seen(self.claim, own.present(node, self.claim, time_ms=self.presence.time_ms + 1))

    def forged(self, node: str, epoch: int, own: HandGrant) -> "Seen":
        """A claim with the tunnel's key in it, and a signature of another one."""
        made = own.signer.claim(node=node, epoch=epoch)
        claim = read_claim(self.claim.key + made.encoded[len(made.key) :])
        return Seen(claim, own.present(node, claim))


def tell(lane: HandLane, *seen: Seen, gone: tuple[Gone, ...] = ()) -> None:
    """Say it, and wait until it was heard: an answer to what is asked after it has come."""
    bound = [tunnel_info(one.claim, "fra") for one in seen]
    presences = [one.presence.encoded for one in seen]
    lane.say(FrameType.ROUTES, Routes(bound=bound, gone=gone, presences=presences).SerializeToString())
    lane.say(FrameType.ASK, Ask(request=1, label="a").SerializeToString())
    assert lane.hear() == (FrameType.ANSWER, Answer(request=1).SerializeToString())


@pytest.fixture
def dial(mesh: Cluster) -> Iterator[Dial]:
    """Lanes to a node, with the certificate of another one."""
    lanes: list[HandLane] = []

    def make(to: str, *, control: bool | None, of: str = "fra-2", version: int = PROTOCOL_VERSION) -> HandLane:
        if control:
            mesh.nodes[of].dial_no_more(to)
        lanes.append(lane := HandLane(mesh.nodes[to], mesh.ca, identity(mesh, of)))
        if control is not None:
            lane.say(FrameType.PEER, Peer(version=version, control=control).SerializeToString())
        return lane

    yield make
    for lane in lanes:
        lane.close()


def moved(mesh: Cluster, bind: Bind, key: SigningKey, home: str) -> tuple[HandTunnel, Seen]:
    """A tunnel that was at fra-2 and is at `home` now; what fra-2 has seen of it."""
    before = bind(mesh, "fra-2", "before", key, 2)
    seen = Seen.of(before)
    own = bind(mesh, home, "own", key, 3)
    assert answered_by(mesh, home, own.host) == "own"
    return own, seen


@pytest.mark.parametrize("home", ["fra-1", "iad-1"])
def test_what_a_node_held_before_takes_no_label(mesh: Cluster, bind: Bind, dial: Dial, home: str) -> None:
    """It shows again what its client has signed for it, or lists the claim in a presence of its own."""
    key = SigningKey()
    own, seen = moved(mesh, bind, key, home)
    eventually(lambda: {answered_by(mesh, at, own.host) for at in NAMES} == {"own"})
    lane = dial("fra-1", control=True)
    for _ in range(3):
        tell(lane, seen, seen.re_signed("fra-2", own.grant.signer.cluster))
        assert {answered_by(mesh, at, own.host) for at in NAMES} == {"own"}
    assert own.unbound is None


def test_a_claim_cannot_be_forged(mesh: Cluster, bind: Bind, dial: Dial) -> None:
    """A higher epoch needs what only the client has."""
    key = SigningKey()
    tunnel, thief = bind(mesh, "iad-1", "own", key, 2), bind(mesh, "fra-2", "thief")
    seen = Seen.of(tunnel)
    assert answered_by(mesh, "fra-1", tunnel.host) == "own"
    lane = dial("fra-1", control=True)
    for epoch in (2, 3, 4096, seen.presence.time_ms):
        tell(lane, seen.forged("fra-2", epoch, thief.grant))
    assert answered_by(mesh, "fra-1", tunnel.host) == "own"


def test_what_is_said_of_another_node_is_an_error_or_nothing(mesh: Cluster, bind: Bind, dial: Dial) -> None:
    """A description that differs from its claim ends the lane; a claim for another node, and its end, are not heard."""
    key = SigningKey()
    tunnel = bind(mesh, "iad-1", "own", key, 2)
    seen = Seen.of(tunnel)
    assert answered_by(mesh, "fra-1", tunnel.host) == "own"
    lane = dial("fra-1", control=True)
    tell(lane, seen, gone=(Gone(label=label_of(key), epoch=9),))
    assert answered_by(mesh, "fra-1", tunnel.host) == "own"
    described = tunnel_info(seen.claim, "fra")
    described.node = "fra-2"
    lane.say(FrameType.ROUTES, Routes(bound=[described]).SerializeToString())
    failure = lane.ending()
    assert failure is not None
    assert failure.code == FAILURE_CODE_PROTOCOL
    late = bind(mesh, "fra-1", "late", key, 3)
    assert late.refused is None
    assert answered_by(mesh, "fra-1", tunnel.host) == "late"


def test_an_old_epoch_does_not_come_back(mesh: Cluster, bind: Bind, dial: Dial) -> None:
    """When its holder has gone the label is nobody's, whoever shows a claim of before."""
    key = SigningKey()
    own, seen = moved(mesh, bind, key, "fra-1")
    own.leave()
    lane = dial("fra-1", control=True)
    tell(lane, seen)
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        answered_by(mesh, "fra-1", own.host)
    again = bind(mesh, "fra-1", "again", key, 4)
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
    failure = dial("fra-1", control=True, version=1).ending()
    assert failure is not None
    assert failure.code == FAILURE_CODE_VERSION


def test_a_certificate_that_is_no_nodes_opens_no_lane(mesh: Cluster) -> None:
    """The registry's is the cluster's too, and it is no node."""
    with HandLane(mesh.nodes["fra-1"], mesh.ca, (mesh.pki / "registry.crt", mesh.pki / "registry.key")) as lane:
        lane.say(FrameType.PEER, Peer(version=PROTOCOL_VERSION, control=True).SerializeToString())
        assert lane.ending() is None


def test_a_certificate_of_another_cluster_opens_no_lane(mesh: Cluster, tmp_path: Path) -> None:
    """Whatever name it is for."""
    other = CaFolder.create(tmp_path)
    other.add_node("fra-2")
    with HandLane(mesh.nodes["fra-1"], mesh.ca, (tmp_path / "node-fra-2.crt", tmp_path / "node-fra-2.key")) as lane:
        assert lane.ending() is None
