"""A store that keeps nothing, and a certificate authority for all tests of this folder."""

from collections.abc import AsyncIterator

import pytest
from portway_registry.state.views import Views
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.announcing import Announcing
from portway_testkit.clusters.views import ViewedStore
from portway_testkit.registry_fixtures import let_go, pki  # noqa: F401


@pytest.fixture
async def memory() -> AsyncIterator[EmbeddedStore]:
    failures: list[BaseException] = []
    store = EmbeddedStore(None, on_failure=failures.append)
    yield store
    await store.close()
    assert not failures


@pytest.fixture
async def cluster(memory: EmbeddedStore) -> AsyncIterator[ViewedStore]:
    failures: list[BaseException] = []
    views = Views(memory, on_failure=failures.append)
    await views.start()
    yield ViewedStore(memory, views)
    await views.close()
    assert not failures


@pytest.fixture
async def announcing(cluster: ViewedStore) -> AsyncIterator[Announcing]:
    announcing = Announcing(cluster.store, cluster.views)
    yield announcing
    announcing.close()
