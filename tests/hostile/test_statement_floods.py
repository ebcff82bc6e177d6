"""Statements that nobody has signed, as fast as they can be made: each costs its receiver a signature to check."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_OVERLOADED, BindRefused, Peer, Routes
from portway_proto.wire.frames import FrameType
from portway_proto.wire.limits import PROTOCOL_VERSION
from portway_proto.wire.statements import Claim, SigningKey, read_claim
from portway_relay.config import NodeLimits
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.hand_grants import HandGrant, grants_of
from portway_testkit.clusters.mesh import connected, identity
from portway_testkit.links.hand_lane import HandLane
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.signers import tunnel_info
from portway_testkit.visitors.mesh_visitors import answered_by
from portway_testkit.waiting import eventually

pytestmark = [pytest.mark.shares_sockets, pytest.mark.timeout(120)]

# Small ones: a flood of a second uses them up.
LIMITS = NodeLimits(signature_checks_per_second=100, signature_check_burst=500)
# What is used up stays so, however long a slow machine takes.
ONCE = replace(LIMITS, signature_checks_per_second=1)
CLAIMS = 6_000  # some 10 MB/s while they are sent
BINDS = 400  # each with a presence
VISITS = 15
# A node is asked for visits while it is flooded, in turn with rounds in which it is not.
ROUNDS = 5


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    plans = (NodePlan("fra-1", "fra", LIMITS), NodePlan("fra-2", "fra", LIMITS))
    with Cluster(tmp_path, plans) as cluster:
        eventually(lambda: connected(cluster))
        yield cluster


@pytest.fixture
def node_of_once(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, (NodePlan("fra-1", "fra", ONCE),)) as cluster:
        yield cluster


def forged(grant: HandGrant, key: SigningKey, node: str) -> Iterator[Claim]:
    """Claims with the tunnel's key in them, each of a higher rank than the one before, with another key's signature."""
    made = grant.claim(SigningKey(), 2, node)
    rest = made.encoded[len(made.key) + 8 :]
    for epoch in itertools.count(grant.presented[-1].time_ms if grant.presented else 1_000):
        yield read_claim(key.public + epoch.to_bytes(8) + rest)


def visit_time(cluster: Cluster, tunnel: HandTunnel, flood: Callable[[], None]) -> float:
    """The median time of a visit, each after a part of the flood."""
    took = []
    for _ in range(VISITS):
        flood()
        began = time.monotonic()
        assert answered_by(cluster, "fra-1", tunnel.host) == tunnel.name
        took.append(time.monotonic() - began)
    return statistics.median(took)


def test_a_node_that_contests_a_label_with_forged_claims_costs_its_own_budget(cluster: Cluster) -> None:
    """Each contests a tunnel in use, and is checked when it comes, unless the next one has taken its place by then or
    its sender has no budget left. The tunnel stays, and its visitors are served."""
    grants, key = grants_of(cluster), SigningKey()
    with HandTunnel(cluster.nodes["fra-1"], cluster.ca, grants, key, 1, "own") as tunnel:
        cluster.nodes["fra-2"].dial_no_more("fra-1")
        with HandLane(cluster.nodes["fra-1"], cluster.ca, identity(cluster, "fra-2")) as lane:
            lane.say(FrameType.PEER, Peer(version=PROTOCOL_VERSION, control=True).SerializeToString())
            claims = forged(tunnel.grant, key, "fra-2")

            def flood() -> None:
                for _ in range(CLAIMS // (ROUNDS * VISITS) // 20):
                    bound = [tunnel_info(next(claims), "fra") for _ in range(20)]
                    lane.say(FrameType.ROUTES, Routes(bound=bound).SerializeToString())

            figures = [
                (visit_time(cluster, tunnel, lambda: None), visit_time(cluster, tunnel, flood)) for _ in range(ROUNDS)
            ]
            assert lane.answers()
        ratio = statistics.median(flooded / quiet for quiet, flooded in figures)
        print(f"visits take {ratio:.2f} times as long")
        assert tunnel.unbound is None
        # A visit is made of two handshakes on a machine that makes the flood, too.
        assert ratio < 3


def test_a_token_that_binds_with_forged_claims_costs_its_own_budget(node_of_once: Cluster) -> None:
    """Above it its BINDs are refused unchecked, with a time to retry after; another token binds meanwhile."""
    cluster, key = node_of_once, SigningKey()
    with HandLane(cluster.nodes["fra-1"], cluster.ca) as hostile, HandLane(cluster.nodes["fra-1"], cluster.ca) as other:
        hostile.begin(grants_of(cluster))
        other.begin(grants_of(cluster))
        for number in range(BINDS):
            made = hostile.grant.claim(key, 1, "fra-1")
            hostile.say_claim(read_claim(number.to_bytes(len(made.key)) + made.encoded[len(made.key) :]))
        answers = [hostile.hear() for _ in range(BINDS)]
        assert {frame_type for frame_type, _ in answers} == {FrameType.BIND_REFUSED}
        refused = [BindRefused.FromString(payload).failure for _, payload in answers]
        late = [failure for failure in refused if failure.code == FAILURE_CODE_OVERLOADED]
        assert late
        assert all(failure.retry_after_ms > 0 for failure in late)
        assert other.bind(key).host
        assert cluster.nodes["fra-1"].metrics()['signatures_unchecked_total{of="token"}'] > 0
