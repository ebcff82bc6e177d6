"""A whole registry on either store, its certificates, and tokens for whoever calls."""

from collections.abc import Iterator

import pytest
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.registry_fixtures import admin, admin_token, config, let_go, pki, public, registry  # noqa: F401


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def etcd(etcd_server: EtcdServer) -> EtcdServer:
    """An etcd that holds nothing."""
    etcd_server.clear()
    return etcd_server


@pytest.fixture(params=["embedded", "etcd"])
def store_text(request: pytest.FixtureRequest) -> str:
    """A registry's --store."""
    if request.param == "etcd":
        server: EtcdServer = request.getfixturevalue("etcd")
        return f"etcd:{server.url}"
    return "embedded:memory"
