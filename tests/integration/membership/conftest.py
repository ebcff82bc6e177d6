"""Clusters whose nodes join by invitation, on either store; the CA is the registry's own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from portway.engine import thread
from portway_testkit.cluster import Cluster
from portway_testkit.etcd import EtcdServer
from portway_testkit.joining import Joiner
from portway_testkit.origins import HttpOrigin


@pytest.fixture(params=["embedded", "etcd"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """A registry's --store."""
    if request.param == "embedded":
        yield "embedded:memory"
        return
    with EtcdServer() as etcd:
        yield f"etcd:{etcd.url}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Joiner]]:
    """Starts a registry that has a CA of its own, without nodes; `settings` are the registry's."""
    with ExitStack() as stack:

        def start(store: str = "embedded:memory", **settings: Any) -> Joiner:
            own = {"cluster_ca": None} | settings
            return Joiner(stack.enter_context(Cluster(tmp_path, (), store=store, settings=own)), tmp_path)

        yield start


@pytest.fixture
def joiner(start: Callable[..., Joiner], store: str) -> Joiner:
    return start(store)


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
