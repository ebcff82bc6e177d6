"""Fixtures that several folders of tests use; tests/conftest.py gives them to all.

Here: which store, this process as a client, a local server. Not here: clusters, which each folder of tests starts
itself.
"""

from collections.abc import Callable, Iterator, Mapping

import pytest
from portway.engine import engine_thread as thread

from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.visitors.origins import HttpOrigin

AsClient = Callable[[Mapping[str, str]], None]


@pytest.fixture(params=["embedded", "etcd"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """The --store of a registry, once for each kind of store."""
    if request.param == "embedded":
        yield "embedded:memory"
        return
    with EtcdServer() as etcd:
        yield f"etcd:{etcd.url}"


@pytest.fixture
def as_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[AsClient]:
    """Makes this process a client by setting environment variables; its engine is stopped after the test."""

    def use(environment: Mapping[str, str]) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    yield use
    thread.stop_engine()


@pytest.fixture
def origin() -> Iterator[HttpOrigin]:
    with HttpOrigin() as origin:
        yield origin
