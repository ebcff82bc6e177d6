"""Clusters inside the test process, on either store, and this process as their client."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from portway.engine import thread
from portway_testkit.cluster import FRANKFURT, Cluster, NodePlan
from portway_testkit.etcd import EtcdServer
from portway_testkit.origins import HttpOrigin

MakeCluster = Callable[..., Cluster]


@pytest.fixture(params=["embedded", "etcd"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """A registry's --store."""
    if request.param == "embedded":
        yield "embedded:memory"
        return
    with EtcdServer() as etcd:
        yield f"etcd:{etcd.url}"


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[MakeCluster]:
    """Starts a cluster with nodes of one's choice, on a store of one's choice; `settings` are the registry's."""
    with ExitStack() as stack:

        def start(*plans: NodePlan, store: str = "embedded:memory", **settings: Any) -> Cluster:
            return stack.enter_context(Cluster(tmp_path, plans or (FRANKFURT,), store=store, settings=settings))

        yield start


@pytest.fixture
def cluster(start_cluster: MakeCluster, store: str) -> Cluster:
    """One node and a registry, once on each store."""
    return start_cluster(store=store)


@pytest.fixture
def as_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """Make this process a client, by an environment that leads to a cluster; its engine is stopped after the test."""

    def use(environment: dict[str, str]) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    yield use
    thread.stop_engine()


@pytest.fixture
def origin() -> Iterator[HttpOrigin]:
    with HttpOrigin() as origin:
        yield origin
