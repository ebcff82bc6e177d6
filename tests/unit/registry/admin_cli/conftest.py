"""portway-admin and a real registry to answer."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from portway_testkit.clusters.admin_stage import Stage, call
from portway_testkit.clusters.registry import Pki


@pytest.fixture
def stage(pki: Pki, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(pki, tmp_path)
    stage.start()
    yield stage
    stage.stop()


@pytest.fixture
def own(pki: Pki, tmp_path: Path) -> Iterator[Stage]:
    """A cluster with a CA of its own."""
    stage = Stage(pki, tmp_path, cluster_ca=None)
    stage.start()
    yield stage
    stage.stop()


@pytest.fixture
def admin() -> Callable[..., Result]:
    """The command line alone."""
    return call
