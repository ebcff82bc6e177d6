"""A registry alone in the test's own loop, and what an attacker may hold: a node's certificate, a client's token."""

from collections.abc import Iterator

import pytest
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.registry_fixtures import admin, admin_token, config, let_go, pki, public, registry  # noqa: F401


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def store_text() -> str:
    return "embedded:memory"
