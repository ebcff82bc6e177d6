"""Clusters in the test process, of much patience and of little, and what comes to their nodes' ports."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import portway
import pytest
from portway_relay.config import NodeLimits
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.hand_grants import Grants, grants_of
from portway_testkit.fixtures import AsClient
from portway_testkit.links.hand_lane import HandLane, HandSession
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.visiting import ask
from portway_testkit.waiting import eventually

# What ends soon here ends for another reason than the time it took.
PATIENT = NodeLimits(hello_time=600.0, greeting_time=600.0, first_bytes_time=0.3)
# Long enough for a test to say what it has to say, also where other programs take the processors.
HASTY = NodeLimits(hello_time=3.0, greeting_time=3.0)


@contextmanager
def store_of(request: pytest.FixtureRequest) -> Iterator[str]:
    """A registry's --store: of the kind that the fixture is parametrised with, embedded by default."""
    if getattr(request, "param", "embedded") == "embedded":
        yield "embedded:memory"
        return
    with EtcdServer() as etcd:
        yield f"etcd:{etcd.url}"


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for the module, PATIENT."""
    plan = NodePlan("fra-1", "fra", PATIENT)
    with store_of(request) as store, Cluster(tmp_path_factory.mktemp("cluster"), (plan,), store=store) as cluster:
        yield cluster


@pytest.fixture
def hasty(make_cluster: Callable[..., Cluster]) -> Cluster:
    """One of the test's own, HASTY."""
    return make_cluster(HASTY)


@pytest.fixture
def make_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """A cluster of the test's own; arguments are settings of its node."""
    with ExitStack() as stack:
        store = stack.enter_context(store_of(request))

        def make(limits: NodeLimits = PATIENT, **settings: Any) -> Cluster:
            plan = NodePlan("fra-1", "fra", limits, settings)
            return stack.enter_context(Cluster(tmp_path, (plan,), store=store))

        yield make


@pytest.fixture
def tunnel(cluster: Cluster, as_client: AsClient, origin: HttpOrigin) -> Iterator[portway.Tunnel]:
    """A tunnel of a client that behaves: it works before the test and after it, and nothing is left of the test."""
    as_client(cluster.environment())
    with portway.forward(origin.port) as tunnel:
        assert ask(tunnel, cluster.ca).endswith(b"origin\n")
        yield tunnel
        assert ask(tunnel, cluster.ca).endswith(b"origin\n")
        eventually(lambda: not left_behind(cluster), shown=lambda: left_behind(cluster))


@pytest.fixture
def lane(cluster: Cluster) -> Iterator[HandLane]:
    """A client's lane to the node; nothing was said yet."""
    with HandLane(cluster.node, cluster.ca) as lane:
        yield lane


@pytest.fixture
def grant(cluster: Cluster) -> Grants:
    return grants_of(cluster)


@pytest.fixture
def session(cluster: Cluster, grant: Grants) -> Iterator[HandSession]:
    with HandLane(cluster.node, cluster.ca) as control, HandLane(cluster.node, cluster.ca) as data:
        welcome = control.begin(grant)
        data.park(welcome)
        assert data.answers()
        yield HandSession(control, data, welcome)


def left_behind(cluster: Cluster) -> dict[str, float]:
    """Visits, and connections that have not said who they are."""
    metrics = cluster.node.metrics()
    counts = {name: metrics[name] for name in ("visits", "half_open_connections", "greeting_lanes")}
    return {name: count for name, count in counts.items() if count}
