"""Clusters whose nodes join by invitation, on either store; the CA is the registry's own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.joining import Joiner


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Joiner]]:
    """Starts a registry that has a CA of its own, without nodes; `settings` are the registry's."""
    with ExitStack() as stack:

        def start(store: str = "embedded:memory", **settings: Any) -> Joiner:
            own = {"cluster_ca": None} | settings
            return Joiner(stack.enter_context(Cluster(tmp_path, (), store=store, settings=own)), tmp_path)

        yield start


@pytest.fixture
def joiner(start: Callable[..., Joiner], store: str) -> Joiner:
    return start(store)
