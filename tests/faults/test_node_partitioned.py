"""A node is cut off from the registry, or from everybody, while clients of its own stay with it; and comes back."""

from collections.abc import Callable, Iterator

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_EPOCH
from portway_proto.wire.statements import SigningKey
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.clusters.mesh import connected
from portway_testkit.links.cable import Cable
from portway_testkit.links.hand_tunnel import HandTunnel
from portway_testkit.signers import label_of
from portway_testkit.visitors.onlookers import UNHURRIED, Onlookers, answered, answered_at_last
from portway_testkit.waiting import eventually

Bind = Callable[..., HandTunnel]

LEASE = 2  # seconds: it runs out while the node is away


@pytest.fixture(params=["fra-1", "iad-1"])
def cable(request: pytest.FixtureRequest, make_mesh: Callable[..., Cluster]) -> Iterator[Cable]:
    """Of a node with a sibling, whom it tells, and of one without, whom a registry tells."""
    mesh = make_mesh(lease_seconds=LEASE)
    with Cable(mesh, request.param) as cable:
        eventually(lambda: connected(mesh))
        yield cable


def shown(cluster: Cluster, label: str) -> list[tuple[str, int]]:
    """Node and epoch of the tunnel, as the registry has it."""
    return [(tunnel.node, tunnel.epoch) for tunnel in cluster.admin.tunnels() if tunnel.label == label]


def test_without_the_registry_it_is_forgotten_there_and_served_everywhere(cable: Cable, bind: Bind) -> None:
    """Its lease runs out; routes stay, for absence from a list removes none. Back, it is shown once, as it was."""
    mesh, home = cable.cluster, cable.name
    key = SigningKey()
    own, other = bind(mesh, home, "own", key), bind(mesh, "fra-2", "other")
    eventually(lambda: shown(mesh, label_of(key)) == [(home, 1)])
    with Onlookers(mesh, {own.host: "own", other.host: "other"}, attention=UNHURRIED) as onlookers:
        eventually(lambda: all(onlookers.answers[at, "own"] for at in mesh.nodes))
        cable.cut_registry()
        eventually(lambda: home not in {node.name for node in mesh.admin.nodes()})
        eventually(lambda: shown(mesh, label_of(key)) == [])  # a registry has a copy of each of the two
        before = onlookers.answers.copy()
        eventually(lambda: all((onlookers.answers - before)[at, "own"] > 5 for at in mesh.nodes))
        cable.mend_registry()
        eventually(lambda: shown(mesh, label_of(key)) == [(home, 1)])
    assert not onlookers.unanswered


def test_back_from_a_partition_it_gives_up_what_was_bound_elsewhere(cable: Cable, bind: Bind) -> None:
    """While it was away both served, each its own side; then the highest epoch has every visitor."""
    mesh, home = cable.cluster, cable.name
    taken, kept = SigningKey(), SigningKey()
    before, keeping = bind(mesh, home, "before", taken), bind(mesh, home, "keeping", kept)
    other = bind(mesh, "fra-2", "other")
    eventually(lambda: shown(mesh, label_of(taken)) == [(home, 1)])
    with Onlookers(mesh, {keeping.host: "keeping", other.host: "other"}):
        assert {answered_at_last(mesh, at, before.host) for at in mesh.nodes} == {"before"}
        cable.cut()
        eventually(lambda: home not in {node.name for node in mesh.admin.nodes()})
        after = bind(mesh, "fra-2", "after", taken, 2)
        assert after.refused is None
        assert answered_at_last(mesh, "fra-2", before.host) == "after"
        assert answered_at_last(mesh, home, before.host) == "before"
        cable.mend()
        assert before.evicted().code == FAILURE_CODE_EPOCH
        for at in mesh.nodes:
            eventually(lambda: answered(mesh, at, before.host) == "after")
            eventually(lambda: answered(mesh, at, keeping.host) == "keeping")
        eventually(lambda: shown(mesh, label_of(taken)) == [("fra-2", 2)])
        eventually(lambda: shown(mesh, label_of(kept)) == [(home, 1)])
        assert keeping.unbound is None
