"""One client with a quota of one tunnel that takes as much of a node as it can get."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from portway_proto.v1.lane_pb2 import BindRefused, Bound, Failure, Unbind
from portway_proto.wire.frames import FrameType
from portway_proto.wire.statements import SigningKey
from portway_relay.config import NodeLimits, PortRange
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.hand_grants import Grants, grants_of
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.processes.ports import raw_port_range
from portway_testkit.signers import label_of
from portway_testkit.waiting import eventually

pytestmark = pytest.mark.timeout(120)

SESSIONS = 40  # that the node takes
PORTS = 60
RESTING = 20  # raw ports of one token

ClusterOf = Callable[..., Cluster]


@pytest.fixture
def cluster_of(tmp_path: Path) -> Iterator[ClusterOf]:
    """A cluster whose node has these limits and settings."""
    with ExitStack() as stack:

        def make(limits: NodeLimits, **settings: Any) -> Cluster:
            return stack.enter_context(Cluster(tmp_path, (NodePlan("fra-1", "fra", limits, settings),)))

        yield make


def small_grant(cluster: Cluster) -> Grants:
    return Grants(cluster.environment(cluster.token(max_tunnels=1)))


def bind_raw(lane: HandLane) -> tuple[str, Failure | None]:
    """Bind a new label with a raw port; the label, and why it was refused."""
    key = SigningKey()
    lane.say_bind(key, unencrypted=True)
    frame_type, payload = lane.hear()
    if frame_type == FrameType.BIND_REFUSED:
        return label_of(key), BindRefused.FromString(payload).failure
    assert Bound.FromString(payload).unencrypted_port
    return label_of(key), None


def test_sessions_that_are_left_without_a_word_take_no_places(cluster_of: ClusterOf) -> None:
    """A client that begins one session after the other and drops each keeps a few of them: others attach."""
    cluster = cluster_of(NodeLimits(max_sessions=SESSIONS))
    grant, other = small_grant(cluster), grants_of(cluster)
    for _ in range(2 * SESSIONS):
        with HandLane(cluster.node, cluster.ca) as lane:
            lane.begin(grant)
    eventually(lambda: cluster.node.metrics()["sessions_away"] == cluster.node.metrics()["sessions"])
    assert cluster.node.metrics()["sessions"] < SESSIONS / 2
    with HandLane(cluster.node, cluster.ca) as lane:
        lane.begin(other)
        lane.bind(SigningKey())


def test_sessions_that_stay_take_no_places_of_others(cluster_of: ClusterOf) -> None:
    """Nor do sessions that are held open: those above what the token may have are refused."""
    cluster = cluster_of(NodeLimits(max_sessions=SESSIONS))
    grant, other = small_grant(cluster), grants_of(cluster)
    with ExitStack() as stack:
        for _ in range(SESSIONS):
            stack.enter_context(HandLane(cluster.node, cluster.ca)).say_hello(grant)
        lane = stack.enter_context(HandLane(cluster.node, cluster.ca))
        lane.begin(other)
        lane.bind(SigningKey())
        assert cluster.node.metrics()["sessions"] < SESSIONS / 2


def test_tunnels_that_come_and_go_do_not_make_all_raw_ports_rest(cluster_of: ClusterOf) -> None:
    """A client that opens a raw tunnel and closes it, over and over, is refused when a few of its ports rest, and told
    for how long; another one gets a port."""
    limits = NodeLimits(max_resting_ports_per_token=RESTING)
    cluster = cluster_of(limits, raw_ports=PortRange(*raw_port_range(PORTS)))
    refusals = []
    with HandLane(cluster.node, cluster.ca) as lane:
        lane.begin(small_grant(cluster))
        for _ in range(PORTS):
            label, refused = bind_raw(lane)
            if refused is not None:
                refusals.append(refused)
            else:
                lane.say(FrameType.UNBIND, Unbind(label=label).SerializeToString())
        assert cluster.node.metrics()["raw_ports_resting"] == RESTING
        assert len(refusals) == PORTS - RESTING
        assert 0 < refusals[-1].retry_after_ms <= limits.port_rest * 1000
    with HandLane(cluster.node, cluster.ca) as lane:
        lane.begin(grants_of(cluster))
        assert bind_raw(lane)[1] is None
