"""A real ACME server, pebble, and registries that obtain certificates from it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from portway_registry.config import Config
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.pebble import Pebble
from portway_testkit.clusters.registry import Pki
from portway_testkit.registry_fixtures import let_go, pki  # noqa: F401


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as etcd:
        yield etcd


@pytest.fixture(scope="session")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """Shared by tests that leave it as it was: each has an account of its own."""
    with Pebble(tmp_path_factory.mktemp("pebble")) as pebble:
        yield pebble


@pytest.fixture
def config(pki: Pki, tmp_path: Path, pebble: Pebble) -> Config:  # noqa: F811
    """A registry that obtains certificates for regions."""
    return pebble.config(pki, tmp_path)
