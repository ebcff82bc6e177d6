"""A node that joined and was removed is refused everywhere within seconds, until it is invited anew."""

import time

import portway
import pytest
from portway_proto.v1.admin_pb2 import NODE_ORDER_REMOVE
from portway_testkit.clusters.joining import Joiner
from portway_testkit.clusters.mesh import connected
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.waiting import eventually

# Seconds from the order until nobody serves the node any more; on a machine that does other things too.
WITHIN = 5.0


def lanes_from(joiner: Joiner, at: str, node: str) -> int:
    """How many lanes of a node another one holds."""

    async def count() -> int:
        return joiner.cluster.nodes[at].node._serving.inbound_lanes.count(node)

    return joiner.cluster.run(count)


@pytest.fixture
def removed(joiner: Joiner, as_client: AsClient) -> Joiner:
    """Two nodes that were connected, the second removed since."""
    joiner.join("fra-1")
    joiner.join("fra-2")
    eventually(lambda: connected(joiner.cluster))
    as_client(joiner.cluster.environment())
    began = time.monotonic()
    joiner.cluster.admin.order("fra-2", NODE_ORDER_REMOVE)
    eventually(lambda: lanes_from(joiner, "fra-1", "fra-2") == 0)
    eventually(lambda: not joiner.cluster.nodes["fra-2"].metrics()["registry_connected"])
    assert time.monotonic() - began < WITHIN
    return joiner


def test_it_is_refused_by_all(removed: Joiner, origin: HttpOrigin) -> None:
    """Clients are sent to the other node, which takes no lane of it and dials none to it."""
    with portway.forward(origin.port):
        eventually(lambda: [tunnel.node for tunnel in removed.cluster.admin.tunnels()] == ["fra-1"])
    refused = removed.cluster.nodes["fra-2"].metrics()
    assert refused["registry_connected"] == 0
    assert lanes_from(removed, "fra-1", "fra-2") == 0
    assert [node.name for node in removed.cluster.admin.nodes()] == ["fra-1"]


def test_its_old_certificate_is_worth_nothing_once_it_was_invited_anew(removed: Joiner) -> None:
    """The machine that has the new one is let in by all; who still has the old one is not, under the same name."""
    old = removed.cluster.nodes.pop("fra-2")
    anew = removed.config("fra-2", token=removed.invite(node="fra-2"), state="anew")
    removed.enter(anew)
    try:
        removed.run(anew)
        eventually(lambda: connected(removed.cluster))
        assert old.metrics()["registry_connected"] == 0
        assert lanes_from(removed, "fra-1", "fra-2") > 0
    finally:
        old.stop()
