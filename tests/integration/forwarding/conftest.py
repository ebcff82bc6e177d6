"""Three nodes in two regions inside the test process, tunnels at any of them, visitors at any other."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from portway_proto.wire.statements import SigningKey
from portway_relay.config import NodeLimits
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.hand_grants import Grants, grants_of
from portway_testkit.clusters.mesh import connected
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.waiting import eventually

NAMES = ("fra-1", "fra-2", "iad-1")
LIMITS = NodeLimits(first_bytes_time=0.3, leave_grace=1.0, stop_grace=1.0)
PLANS = tuple(NodePlan(name, name.partition("-")[0], LIMITS) for name in NAMES)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Cluster]:
    """One for each test: its lanes stay warm, and which ones there are depends on what came before."""
    with Cluster(tmp_path, PLANS) as cluster:
        eventually(lambda: connected(cluster))
        yield cluster


@pytest.fixture
def bind() -> Iterator[Callable[..., HandTunnel]]:
    """Makes tunnels; what is left of them is closed after the test."""
    with ExitStack() as stack:
        grants: dict[int, Grants] = {}

        def make(
            cluster: Cluster, node: str, name: str, key: SigningKey | None = None, epoch: int = 1, **how: Any
        ) -> Any:
            grant = grants.get(id(cluster)) or grants.setdefault(id(cluster), grants_of(cluster))
            tunnel = HandTunnel(cluster.nodes[node], cluster.ca, grant, key or SigningKey(), epoch, name, **how)
            return stack.enter_context(tunnel)

        yield make
