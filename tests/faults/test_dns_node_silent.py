"""A node that answers DNS is in a black hole: it is named in nobody's answers, and names go on resolving."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.dns_mesh import BELIEVED, dns_plans, named, named_at_all, named_everywhere
from portway_testkit.links.cable import Cable
from portway_testkit.own_time import OwnTime
from portway_testkit.waiting import eventually

SILENT = "fra-2"
OTHERS = ("fra-1", "iad-1")
# Two pings go unanswered (5 s each), and the nodes are looked at twice a second.
WORST = 15.0


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    with Cluster(tmp_path, dns_plans(), settings=BELIEVED) as cluster, Cable(cluster, SILENT) as cable:
        named_everywhere(cluster)
        yield cable


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_silent_node_is_named_nowhere_and_again_when_it_is_back(cable: Cable, own_time: OwnTime) -> None:
    """With no registry there: the other nodes notice by themselves."""
    mesh = cable.cluster
    mesh.stop_registry()
    cable.drop()
    dropped = own_time()
    for at in OTHERS:
        eventually(lambda at=at: SILENT not in named_at_all(mesh, at) | named(mesh, at))  # type: ignore[misc]
    took = own_time() - dropped
    print(f"out of answers after {took:.1f} s")
    assert took < WORST
    assert all(named(mesh, at) == set(OTHERS) for at in OTHERS)
    cable.mend()
    for at in OTHERS:
        eventually(lambda at=at: SILENT in named_at_all(mesh, at))  # type: ignore[misc]
