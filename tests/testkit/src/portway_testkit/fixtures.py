"""Fixtures that several folders of tests use; tests/conftest.py gives them to all.

Here: which store, this process as a client, a local server, time without this process's pauses. Not here: clusters,
which each folder of tests starts itself.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import pytest
from portway.engine import engine_thread as thread

from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.own_time import OwnTime
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


@contextmanager
def as_client_of(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is a client with these environment variables; its engine is stopped at the end."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    try:
        yield
    finally:
        thread.stop_engine()


@pytest.fixture
def as_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[AsClient]:
    """Makes this process a client until the test has ended."""
    with ExitStack() as stack:
        yield lambda environment: stack.enter_context(as_client_of(environment, monkeypatch))


@pytest.fixture
def own_time() -> Iterator[OwnTime]:
    with OwnTime() as own_time:
        yield own_time


@pytest.fixture
def origin() -> Iterator[HttpOrigin]:
    with HttpOrigin() as origin:
        yield origin
