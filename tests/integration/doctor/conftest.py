"""Clusters inside the test process for the doctor to look at."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.mesh import connected
from portway_testkit.clusters.registry import loopback_geoip
from portway_testkit.links.hand_tunnel import Bind, binding
from portway_testkit.waiting import eventually

MakeMesh = Callable[..., Cluster]


@pytest.fixture
def make_mesh(tmp_path: Path) -> Iterator[MakeMesh]:
    """Starts nodes that have heard from each other; `settings` are the registry's."""
    with ExitStack() as stack:

        def make(*plans: NodePlan, store: str, **settings: Any) -> Cluster:
            given = {"geoip": loopback_geoip(tmp_path / "geo.mmdb"), "max_connections": 64} | settings
            cluster = stack.enter_context(Cluster(tmp_path, plans, store=store, settings=given))
            eventually(lambda: connected(cluster))
            eventually(lambda: len(cluster.admin.nodes()) == len(plans))
            return cluster

        yield make


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Makes tunnels by hand, at nodes of the test's choice."""
    with binding() as bind:
        yield bind
