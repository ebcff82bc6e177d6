"""A cluster in the test process whose node has short patience, and what comes to its ports."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import portway
import pytest
from portway.engine import thread
from portway_relay.config import NodeLimits
from portway_testkit.cluster import Cluster, NodePlan
from portway_testkit.origins import HttpOrigin
from portway_testkit.visitors import ask
from portway_testkit.waiting import eventually

SHORT = NodeLimits(hello_time=1.0, greeting_time=2.0, first_bytes_time=0.3)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for the module; its limits are SHORT."""
    with Cluster(tmp_path_factory.mktemp("cluster"), (NodePlan("fra-1", "fra", SHORT),)) as cluster:
        yield cluster


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """A cluster of the test's own; arguments are settings of its node."""
    with ExitStack() as stack:

        def make(limits: NodeLimits = SHORT, **settings: Any) -> Cluster:
            return stack.enter_context(Cluster(tmp_path, (NodePlan("fra-1", "fra", limits, settings),)))

        yield make


@pytest.fixture
def as_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Cluster], None]]:
    """Make this process a client of a cluster; its engine is stopped after the test."""

    def use(cluster: Cluster) -> None:
        for name, value in cluster.environment().items():
            monkeypatch.setenv(name, value)

    yield use
    thread.stop_engine()


@pytest.fixture
def origin() -> Iterator[HttpOrigin]:
    with HttpOrigin() as origin:
        yield origin


@pytest.fixture
def tunnel(cluster: Cluster, as_client: Callable[[Cluster], None], origin: HttpOrigin) -> Iterator[portway.Tunnel]:
    """A tunnel of a client that behaves: it works before the test and after it, and nothing is left of the test."""
    as_client(cluster)
    with portway.forward(origin.port) as tunnel:
        assert ask(tunnel, cluster.ca).endswith(b"origin\n")
        yield tunnel
        assert ask(tunnel, cluster.ca).endswith(b"origin\n")
        eventually(lambda: nothing_is_left(cluster))


def nothing_is_left(cluster: Cluster) -> bool:
    """No visit, no connection that has not said who it is."""
    metrics = cluster.node.metrics()
    return not any(metrics[name] for name in ("visits", "half_open_connections", "greeting_lanes"))
