"""A node invents as many labels as others may remember, and then claims one that was placed there before."""

import pytest
from portway_proto.wire.statements import SigningKey
from portway_relay.mesh import frame_budgets
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.links.hand_tunnel import Bind
from portway_testkit.links.thief import SEEN, Thief
from portway_testkit.signers import label_of
from portway_testkit.visitors.onlookers import Onlookers, answered_at_last
from portway_testkit.waiting import eventually

# A hundred thousand labels are invented, in half a minute.
pytestmark = pytest.mark.timeout(180)

# What flushed a memory of 100,000 labels.
INVENTED = 101_000
INVENTED_AT_REGISTRY = 5_000
LATER = 15.0
HONEST = ("fra-1", "iad-1")


@pytest.fixture(autouse=True)
def unpaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes read what others say as fast as it comes: at their pace the flood would take two minutes."""
    monkeypatch.setattr(frame_budgets, "_PER_SECOND", 1_000_000)


@pytest.mark.parametrize("home", HONEST)
def test_a_sibling_that_floods_the_others_gets_no_visitor(mesh: Cluster, thief: Thief, home: str) -> None:
    """Its statements push out its own alone. Visits stay with the tunnel's client, also 15 s later."""
    key = SigningKey()
    own, said = thief.lure(key, home)
    eventually(lambda: {answered_at_last(mesh, at, own.host) for at in HONEST} == {"own"})
    # Nobody visits until the claim is shown again: a visit would have the others learn anew where the label is.
    thief.floods(INVENTED)
    thief.claims(said[0])
    thief.was_heard()
    assert {answered_at_last(mesh, at, own.host) for at in HONEST} == {"own"}
    with Onlookers(mesh, {own.host: "own"}, HONEST) as onlookers:
        for _ in range(2):
            for client in said:
                thief.claims(client)
                thief.was_heard()
            before = onlookers.answers.copy()
            eventually(lambda: all((onlookers.answers - before)[at, "own"] > 3 for at in HONEST))
            for at in HONEST:
                mesh.nodes[at].pass_time(LATER)
    assert own.unbound is None


@pytest.mark.parametrize("hostile", ["iad-1", "fra-2"])
def test_a_closed_label_leads_nowhere_after_the_registry_was_flooded(mesh: Cluster, bind: Bind, hostile: str) -> None:
    """From its own region and from another one. The client was at the hostile node before, and closed its tunnel at
    another one."""
    thief, key = Thief(mesh, hostile, bind), SigningKey()
    honest = [name for name in mesh.nodes if name != hostile]
    own, said = thief.lure(key, "fra-1")
    eventually(lambda: shown(mesh, key) == [("fra-1", SEEN)])
    assert {answered_at_last(mesh, at, own.host) for at in honest} == {"own"}
    own.leave()
    eventually(lambda: shown(mesh, key) == [])
    thief.floods_registry(INVENTED_AT_REGISTRY)
    for client in said:
        thief.claims(client)
        thief.was_heard()
        assert {answered_at_last(mesh, at, own.host) for at in honest} == {""}
        assert shown(mesh, key) == []


def shown(cluster: Cluster, key: SigningKey) -> list[tuple[str, int]]:
    """Node and epoch of the tunnel, as the registry has it."""
    return [(tunnel.node, tunnel.epoch) for tunnel in cluster.admin.tunnels() if tunnel.label == label_of(key)]
