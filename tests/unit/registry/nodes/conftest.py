"""One node's session, served over a store that a test can take away."""

from collections.abc import AsyncIterator

import pytest
from portway_registry.nodes import session as session_module
from portway_registry.state.views import Views
from portway_testkit.clusters.registry import node_info
from portway_testkit.clusters.served_session import Fickle, Running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries while the store is away follow each other closely."""
    monkeypatch.setattr(session_module, "_PAUSE", 0.02)


@pytest.fixture
async def store(impatient: None) -> AsyncIterator[Fickle]:
    store = Fickle()
    yield store
    await store.close()


@pytest.fixture
async def views(store: Fickle) -> AsyncIterator[Views]:
    views = Views(store, on_failure=print)
    await views.start()
    yield views
    await views.close()


@pytest.fixture
async def running(store: Fickle, views: Views) -> AsyncIterator[Running]:
    running = Running(store, views, node_info("fra-1", started_at_ms=100))
    await running.start()
    yield running
    await running.stop()
