"""A mesh of three nodes in two regions that answer DNS."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.dns_mesh import dns_mesh


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Cluster]:
    with dns_mesh(tmp_path) as cluster:
        yield cluster
