"""Whose a label is, with lanes spoken by hand: the highest epoch's, and nobody's who cannot prove it."""

from collections.abc import Callable, Iterator

import pytest
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_CLAIM,
    Bind,
    BindRefused,
    Failure,
    Unbound,
)
from portway_proto.wire.frames import FrameType
from portway_proto.wire.labels import Chain
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.mesh import connected
from portway_testkit.links.hand_lane import HandLane, grant_of
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
        lane.begin(grant_of(cluster))
        return lane

    yield attach
    for lane in lanes:
        lane.close()


@pytest.fixture
def chain() -> Chain:
    return Chain()


def refusal(lane: HandLane, label: str, epoch: int, proof: bytes) -> Failure:
    """Why this BIND is refused."""
    lane.say(FrameType.BIND, Bind(request=9, label=label, epoch=epoch, proof=proof).SerializeToString())
    frame_type, payload = lane.hear()
    assert frame_type == FrameType.BIND_REFUSED, (frame_type, payload)
    return BindRefused.FromString(payload).failure


def unbound(lane: HandLane) -> Unbound:
    frame_type, payload = lane.hear()
    assert frame_type == FrameType.UNBOUND, (frame_type, payload)
    return Unbound.FromString(payload)


def shown(cluster: Cluster) -> list[tuple[str, int]]:
    """Node and epoch of each tunnel, as the registry has it."""
    return [(tunnel.node, tunnel.epoch) for tunnel in cluster.admin.tunnels()]


@pytest.mark.parametrize("node", ["fra-1", "fra-2"])
def test_a_higher_epoch_takes_over_at_once(cluster: Cluster, attach: Attach, chain: Chain, node: str) -> None:
    """At the same node or another; the holder before is told, and its late goodbye changes nothing."""
    old, new = attach("fra-1"), attach(node)
    old.bind(chain, 1)
    eventually(lambda: shown(cluster) == [("fra-1", 1)])
    new.bind(chain, 2)
    told = unbound(old)
    assert (told.label, told.failure.code) == (chain.label, FAILURE_CODE_EPOCH)
    eventually(lambda: shown(cluster) == [(node, 2)])
    old.close()
    assert new.answers()
    eventually(lambda: cluster.nodes["fra-1"].metrics()["sessions_away"] == 1)
    assert shown(cluster) == [(node, 2)]


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_equal_or_lower_epoch_is_refused_by_the_node(
    cluster: Cluster, attach: Attach, chain: Chain, epoch: int
) -> None:
    """Though its proof is right; the holder hears nothing of it."""
    holder, other = attach("fra-1"), attach("fra-1")
    holder.bind(chain, 2)
    assert refusal(other, chain.label, epoch, chain.proof(epoch)).code == FAILURE_CODE_EPOCH
    assert holder.answers()
    eventually(lambda: shown(cluster) == [("fra-1", 2)])


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_equal_or_lower_epoch_at_another_node_is_refused(
    cluster: Cluster, attach: Attach, chain: Chain, epoch: int
) -> None:
    """The holder's node has told it, and the holder hears nothing of it."""
    eventually(lambda: connected(cluster))
    holder, other = attach("fra-1"), attach("fra-2")
    holder.bind(chain, 2)
    eventually(lambda: shown(cluster) == [("fra-1", 2)])
    eventually(lambda: cluster.nodes["fra-2"].node._routing.routes.epoch(chain.label) == 2)
    assert refusal(other, chain.label, epoch, chain.proof(epoch)).code == FAILURE_CODE_EPOCH
    assert holder.answers()
    assert shown(cluster) == [("fra-1", 2)]


@pytest.mark.parametrize("node", ["fra-1", "fra-2"])
def test_a_forged_epoch_never_takes_anything(cluster: Cluster, attach: Attach, chain: Chain, node: str) -> None:
    """Who saw the proof of an epoch can prove no later one; who saw none can prove none."""
    holder, thief = attach("fra-1"), attach(node)
    holder.bind(chain, 2)
    eventually(lambda: shown(cluster) == [("fra-1", 2)])
    for proof in (chain.proof(2), chain.proof(1), Chain().proof(3), b"", b"\0" * 32, b"x" * 64):
        assert refusal(thief, chain.label, 3, proof).code == FAILURE_CODE_CLAIM
    for epoch in (0, 4097, 2**32 - 1):
        assert refusal(thief, chain.label, epoch, chain.proof(1)).code == FAILURE_CODE_CLAIM
    assert holder.answers()
    assert shown(cluster) == [("fra-1", 2)]
