"""Fixtures of the folders of tests that run a registry in the test's own loop; their conftest.py imports them.

A folder has its own `store_text`: the registry's --store.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from portway_registry.config import Config
from portway_registry.server import Registry

from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.registry import Pki, channel, running


@pytest.fixture(autouse=True)
def let_go(request: pytest.FixtureRequest) -> Iterator[None]:
    """gRPC closes its last socket with its last object, and pytest keeps fixtures' values for longer than they live."""
    yield
    request.node.funcargs.clear()


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki") / "pki")


@pytest.fixture
def config(pki: Pki, tmp_path: Path, store_text: str) -> Config:
    return pki.config(tmp_path, store=store_text)


@pytest.fixture
async def registry(config: Config) -> AsyncIterator[Registry]:
    async with running(config) as registry:
        yield registry


@pytest.fixture
async def public(registry: Registry, pki: Pki) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the port of clients and operators."""
    async with channel(registry.address, pki.ca) as opened:
        yield opened


@pytest.fixture
def admin_token(registry: Registry, config: Config) -> str:
    """The token that the registry's first start has made."""
    assert config.admin_token_file is not None
    return config.admin_token_file.read_text().strip()


@pytest.fixture
def admin(public: grpc.aio.Channel, admin_token: str, registry: Registry, pki: Pki) -> AdminCaller:
    return AdminCaller(public, admin_token, registry, pki)
