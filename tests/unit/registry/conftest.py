"""A store that keeps nothing, and a certificate authority for all tests of this folder."""

from collections.abc import AsyncIterator, Iterator

import pytest
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.registry import Pki


@pytest.fixture(autouse=True)
def let_go(request: pytest.FixtureRequest) -> Iterator[None]:
    """gRPC closes its last socket with its last object, and pytest keeps fixtures' values for longer than they live."""
    yield
    request.node.funcargs.clear()


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki") / "pki")


@pytest.fixture
async def memory() -> AsyncIterator[EmbeddedStore]:
    failures: list[BaseException] = []
    store = EmbeddedStore(None, on_failure=failures.append)
    yield store
    await store.close()
    assert not failures
