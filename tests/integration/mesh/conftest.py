"""Clusters inside the test process, on either store, and this process as their client."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from portway_testkit.clusters.cluster import FRANKFURT, Cluster, NodePlan

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[MakeCluster]:
    """Starts a cluster with nodes of one's choice, on a store of one's choice; `settings` are the registry's."""
    with ExitStack() as stack:

        def start(*plans: NodePlan, store: str = "embedded:memory", loop: Any = None, **settings: Any) -> Cluster:
            how = {} if loop is None else {"loop": loop}
            return stack.enter_context(Cluster(tmp_path, plans or (FRANKFURT,), store=store, settings=settings, **how))

        yield start


@pytest.fixture
def cluster(start_cluster: MakeCluster, store: str) -> Cluster:
    """One node and a registry, once on each store."""
    return start_cluster(store=store)
