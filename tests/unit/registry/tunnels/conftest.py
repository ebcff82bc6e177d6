"""Two nodes that announce."""

import pytest
from portway_testkit.clusters.announcing import Announcing, AnnouncingNode
from portway_testkit.clusters.views import ViewedStore


@pytest.fixture
def node(cluster: ViewedStore, announcing: Announcing) -> AnnouncingNode:
    return AnnouncingNode(cluster, announcing, "fra-1")


@pytest.fixture
def other(cluster: ViewedStore, announcing: Announcing) -> AnnouncingNode:
    return AnnouncingNode(cluster, announcing, "lon-1")
