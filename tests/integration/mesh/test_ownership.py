"""Whose a label is, with lanes spoken by hand: the highest claim's, and nobody's who cannot sign one."""

from collections.abc import Callable, Iterator

import pytest
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_CLAIM,
    FAILURE_CODE_EPOCH,
    BindRefused,
    Unbound,
)
from portway_proto.wire.frames import FrameType
from portway_proto.wire.statements import SigningKey, read_claim
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.hand_grants import grants_of
from portway_testkit.clusters.mesh import connected
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.signers import label_of
from portway_testkit.waiting import eventually

Attach = Callable[[str], HandLane]


@pytest.fixture
def cluster(start_cluster: Callable[..., Cluster], store: str) -> Cluster:
    """Two nodes of one region."""
    return start_cluster(NodePlan("fra-1", "fra"), NodePlan("fra-2", "fra"), store=store)


@pytest.fixture
def attach(cluster: Cluster) -> Iterator[Attach]:
    """Begins a session at the node of that name."""
    lanes: list[HandLane] = []

    def attach(node: str) -> HandLane:
        lane = HandLane(cluster.nodes[node], cluster.ca)
        lanes.append(lane)
        lane.begin(grants_of(cluster))
        return lane

    yield attach
    for lane in lanes:
        lane.close()


@pytest.fixture
def key() -> SigningKey:
    return SigningKey()


def refusal(lane: HandLane) -> BindRefused:
    """Why the last BIND is refused."""
    frame_type, payload = lane.hear()
    assert frame_type == FrameType.BIND_REFUSED, (frame_type, payload)
    return BindRefused.FromString(payload)


def unbound(lane: HandLane) -> Unbound:
    frame_type, payload = lane.hear()
    assert frame_type == FrameType.UNBOUND, (frame_type, payload)
    return Unbound.FromString(payload)


def shown(cluster: Cluster) -> list[tuple[str, int]]:
    """Node and epoch of each tunnel, as the registry has it."""
    return [(tunnel.node, tunnel.epoch) for tunnel in cluster.admin.tunnels()]


@pytest.mark.parametrize("node", ["fra-1", "fra-2"])
def test_a_higher_epoch_takes_over_at_once(cluster: Cluster, attach: Attach, key: SigningKey, node: str) -> None:
    """At the same node or another; the holder before is told, and its late goodbye changes nothing."""
    old, new = attach("fra-1"), attach(node)
    old.bind(key, 1)
    eventually(lambda: shown(cluster) == [("fra-1", 1)])
    new.bind(key, 2)
    told = unbound(old)
    assert (told.label, told.failure.code) == (label_of(key), FAILURE_CODE_EPOCH)
    eventually(lambda: shown(cluster) == [(node, 2)])
    old.close()
    assert new.answers()
    eventually(lambda: cluster.nodes["fra-1"].metrics()["sessions_away"] == 1)
    assert shown(cluster) == [(node, 2)]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_lower_epoch_is_refused_by_the_node(cluster: Cluster, attach: Attach, key: SigningKey, epoch: int) -> None:
    """Though it is rightly signed; the holder hears nothing of it, and the other is shown the claim that counts."""
    holder, other = attach("fra-1"), attach("fra-1")
    holder.bind(key, 3)
    other.say_bind(key, epoch)
    refused = refusal(other)
    assert refused.failure.code == FAILURE_CODE_EPOCH
    assert read_claim(refused.claim).epoch == 3
    assert holder.answers()
    eventually(lambda: shown(cluster) == [("fra-1", 3)])


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_lower_epoch_at_another_node_is_refused(
    cluster: Cluster, attach: Attach, key: SigningKey, epoch: int
) -> None:
    """The holder's node has told it, and the holder hears nothing of it."""
    eventually(lambda: connected(cluster))
    holder, other = attach("fra-1"), attach("fra-2")
    holder.bind(key, 3)
    eventually(lambda: shown(cluster) == [("fra-1", 3)])
    heard = cluster.nodes["fra-2"].node._routing.routes._heard
    eventually(lambda: bool(heard.claims(label_of(key))))
    other.say_bind(key, epoch)
    assert refusal(other).failure.code == FAILURE_CODE_EPOCH
    assert holder.answers()
    assert shown(cluster) == [("fra-1", 3)]


@pytest.mark.parametrize("node", ["fra-1", "fra-2"])
def test_a_forged_claim_never_takes_anything(cluster: Cluster, attach: Attach, key: SigningKey, node: str) -> None:
    """Who has seen a claim can sign none: neither for another node or session, nor with a higher epoch."""
    holder, thief = attach("fra-1"), attach(node)
    holder.bind(key, 2)
    eventually(lambda: shown(cluster) == [("fra-1", 2)])
    mine = SigningKey()
    for epoch in (2, 3, 2**40):
        claim = thief.grant.claim(mine, epoch, node)
        thief.say_claim(read_claim(key.public + claim.encoded[len(key.public) :]))
        assert refusal(thief).failure.code == FAILURE_CODE_CLAIM
    (seen,) = holder.grant.signer.held
    thief.say_claim(seen)
    assert refusal(thief).failure.code == FAILURE_CODE_CLAIM
    assert holder.answers()
    assert shown(cluster) == [("fra-1", 2)]
