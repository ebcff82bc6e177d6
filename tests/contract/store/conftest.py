"""One store after the other, each test below a prefix of its own."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from portway_registry.store.contract import Store
from portway_registry.store.open import open_store
from portway_registry.store.spec import EmbeddedSpec, StoreSpec
from portway_testkit.clusters.etcd import EtcdServer


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture(params=["memory", "file", "etcd"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSpec:
    if request.param == "etcd":
        server: EtcdServer = request.getfixturevalue("etcd_server")
        return server.spec()
    return EmbeddedSpec(tmp_path / "store.db" if request.param == "file" else None)


@pytest.fixture
async def store(spec: StoreSpec) -> AsyncIterator[Store]:
    failures: list[BaseException] = []
    opened = open_store(spec, on_failure=failures.append)
    yield opened
    await opened.close()
    assert not failures


@pytest.fixture
def prefix() -> str:
    return f"/test/{secrets.token_hex(6)}/"
