"""A mesh in this process, in which one node was broken into."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from portway_proto.wire.limits import YOUNG
from portway_relay.config import NodeLimits
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.mesh import connected
from portway_testkit.links.hand_tunnel import Bind, binding
from portway_testkit.links.thief import Thief
from portway_testkit.waiting import eventually

LIMITS = NodeLimits(first_bytes_time=0.3, leave_grace=1.0, stop_grace=1.0)
MESH = tuple(NodePlan(name, name.partition("-")[0], LIMITS) for name in ("fra-1", "fra-2", "iad-1"))


@pytest.fixture
def make_mesh(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts nodes that have heard from each other and are no longer young: they believe what they were told."""
    with ExitStack() as stack:

        def make(*plans: NodePlan) -> Cluster:
            cluster = stack.enter_context(Cluster(tmp_path, plans or MESH, store=f"embedded:{tmp_path / 'store.db'}"))
            eventually(lambda: connected(cluster))
            for node in cluster.nodes.values():
                node.pass_time(YOUNG + 1)
            return cluster

        yield make


@pytest.fixture
def mesh(make_mesh: Callable[..., Cluster]) -> Cluster:
    return make_mesh()


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Makes tunnels at nodes of the test's choice; what is left of them is closed after the test."""
    with binding() as bind:
        yield bind


@pytest.fixture
def thief(mesh: Cluster, bind: Bind) -> Thief:
    """A node of the region in which the others are told of its tunnels."""
    return Thief(mesh, "fra-2", bind)
