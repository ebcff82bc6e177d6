"""Whose a label is: claims and who wins them, and goodbyes that come too late."""

from typing import Any

import pytest
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_QUOTA,
)
from portway_relay.errors import Refused
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.tunnel_table import (
    KEY,
    LABEL,
    OTHER,
    REVOKED,
    THIRD,
    FakeHolder,
    Node,
    table_node,  # noqa: F401 - the fixture `node`
)
from portway_testkit.signers import label_of


def test_a_claim_binds_the_label(node: Node, clock: ManualClock) -> None:
    """Visitors are routed to the tunnel from then on, and the registry is told."""
    holder = FakeHolder()
    tunnel = node.bind(holder, 3, h2_enabled=True)
    assert node.tunnels.live(LABEL) is tunnel
    assert list(node.tunnels.all_live()) == [tunnel]
    assert len(node.tunnels) == 1
    assert (tunnel.epoch, tunnel.holder, tunnel.h2_enabled, tunnel.max_visits) == (3, holder, True, 3)
    assert tunnel.opened_at_ms == int(clock.now * 1000)
    assert tunnel.raw is None
    assert node.announced.all == [("bound", LABEL, 3)]


def test_a_label_that_nobody_holds_leads_nowhere(node: Node) -> None:
    """Neither an unknown label nor anything else is found."""
    node.bind(FakeHolder())
    assert node.tunnels.live(label_of(OTHER)) is None
    assert node.tunnels.live("") is None


@pytest.mark.parametrize("epoch", [1, 4])
def test_a_lower_epoch_is_refused(node: Node, epoch: int) -> None:
    """A claim of somebody else with the same key, or of a client that is late, does not take the label; the refusal
    shows the one that owns it."""
    holder = FakeHolder()
    tunnel = node.bind(holder, 5)
    refusal = node.refused(FakeHolder("t2"), epoch)
    assert refusal.code == FAILURE_CODE_EPOCH
    assert "epoch 5" in refusal.message
    assert refusal.claim == tunnel.claim.encoded
    assert holder.taken == []


def test_of_two_equal_epochs_the_greater_hash_has_the_label(node: Node) -> None:
    """At every receiver: two programs with one key cannot both have it."""
    first, second = FakeHolder("t1"), FakeHolder("t2")
    claims = {holder: holder.signer.claim(KEY, node="here", epoch=5) for holder in (first, second)}
    lower, higher = sorted((first, second), key=lambda holder: claims[holder].digest)
    node.bind(lower, claim=claims[lower])
    after = node.bind(higher, claim=claims[higher])
    assert node.tunnels.live(LABEL) is after
    assert node.refused(lower, claim=claims[lower]).code == FAILURE_CODE_EPOCH
    assert lower.owners == [claims[higher].encoded]


def test_another_key_with_the_same_label_takes_nothing(node: Node) -> None:
    """Whatever its epoch: the label is the key's that has it now."""
    tunnel = node.bind(FakeHolder(), 5)
    stranger = FakeHolder("t2")
    claim = stranger.signer.claim(OTHER, node="here", epoch=9)
    object.__setattr__(claim, "label", LABEL)
    refusal = node.refused(stranger, claim=claim)
    assert (refusal.code, refusal.claim) == (FAILURE_CODE_EPOCH, tunnel.claim.encoded)


def test_an_equal_epoch_is_refused_while_its_holder_is_away(node: Node) -> None:
    """The holder alone may come back with the claim it has: by resuming."""
    tunnel = node.bind(FakeHolder(), 5)
    node.table.suspend(tunnel)
    assert node.refused(FakeHolder("t2"), claim=tunnel.claim).code == FAILURE_CODE_EPOCH


def test_the_same_claim_again_is_the_same_tunnel(node: Node) -> None:
    """A client whose answer was lost asks again: it gets what it has, and nothing is told twice."""
    holder = FakeHolder()
    tunnel = node.bind(holder, 2)
    assert node.table.held(holder, tunnel.claim) is tunnel
    assert node.table.held(FakeHolder(), tunnel.claim) is None
    assert node.table.held(holder, holder.signer.claim(KEY, node="here", epoch=2)) is tunnel  # the same bytes
    assert node.table.held(holder, holder.signer.claim(KEY, node="here", epoch=3)) is None


def test_a_higher_epoch_takes_over_at_once(node: Node) -> None:
    """The old holder is told and gets no new visits; those in progress are not cut."""
    old, new = FakeHolder("t1"), FakeHolder("t2")
    before = node.bind(old, 1)
    visit: Any = object()
    before.visits.add(visit)
    after = node.bind(new, 2)
    assert node.tunnels.live(LABEL) is after
    assert not before.live
    assert before.visits == {visit}
    assert after.visits == set()
    ((taken, failure),) = old.taken
    assert taken is before
    assert failure.code == FAILURE_CODE_EPOCH
    assert old.owners == [after.claim.encoded]
    assert new.taken == []
    assert len(node.tunnels) == 1
    assert node.announced.all == [("bound", LABEL, 1), ("bound", LABEL, 2)]


def test_a_holder_that_raises_its_own_epoch_is_not_told(node: Node) -> None:
    """It knows: it asked for that."""
    holder = FakeHolder()
    before = node.bind(holder, 1)
    after = node.bind(holder, 2)
    assert holder.taken == []
    assert not before.live
    assert node.tunnels.live(LABEL) is after


def test_a_late_goodbye_never_removes_the_new_holder(node: Node) -> None:
    """Whatever the old holder still does with its tunnel, the label stays the new one's."""
    before = node.bind(FakeHolder("t1"), 1)
    after = node.bind(FakeHolder("t2"), 2)
    told = list(node.announced.all)
    node.table.suspend(before)
    node.table.resume(before)
    node.table.release(before)
    assert node.tunnels.live(LABEL) is after
    assert not before.live
    assert len(node.tunnels) == 1
    assert node.announced.all == told


def test_a_suspended_tunnel_is_not_visited(node: Node) -> None:
    """While its holder is away nobody is routed to it and it does not count; back it is the same tunnel."""
    tunnel = node.bind(FakeHolder())
    node.table.suspend(tunnel)
    node.table.suspend(tunnel)
    assert node.tunnels.live(LABEL) is None
    assert len(node.tunnels) == 0
    node.table.resume(tunnel)
    node.table.resume(tunnel)
    assert node.tunnels.live(LABEL) is tunnel
    assert len(node.tunnels) == 1
    assert [what for what, *_ in node.announced.all] == ["bound", "withdrawn", "bound"]


def test_a_suspended_tunnel_is_taken_over_by_a_higher_epoch(node: Node) -> None:
    """A client that came back another way wins over what it left."""
    old = FakeHolder("t1")
    before = node.bind(old, 1)
    node.table.suspend(before)
    after = node.bind(FakeHolder("t1"), 2)
    assert node.tunnels.live(LABEL) is after
    assert old.taken[0][0] is before
    assert len(node.tunnels) == 1


def test_a_released_tunnel_is_gone(node: Node) -> None:
    """Once, however often it is said; the label can be bound again."""
    tunnel = node.bind(FakeHolder(), 1)
    node.table.release(tunnel)
    node.table.release(tunnel)
    node.table.resume(tunnel)
    node.table.suspend(tunnel)
    assert node.tunnels.live(LABEL) is None
    assert len(node.tunnels) == 0
    assert [what for what, *_ in node.announced.all] == ["bound", "withdrawn"]
    assert node.bind(FakeHolder(), 2).live


@pytest.mark.parametrize("away", [False, True])
def test_a_closed_tunnel_is_said_to_be_so(node: Node, away: bool) -> None:
    """Once, after it was withdrawn; also of one whose holder was away, which nobody was routed to any more."""
    tunnel = node.bind(FakeHolder())
    if away:
        node.table.suspend(tunnel)
    node.table.release(tunnel, closed=True)
    node.table.release(tunnel, closed=True)
    assert [what for what, *_ in node.announced.all] == ["bound", "withdrawn", "closed"]


def test_a_suspended_tunnel_is_withdrawn_once(node: Node) -> None:
    """Releasing what the registry no longer has tells it nothing new."""
    tunnel = node.bind(FakeHolder())
    node.table.suspend(tunnel)
    node.table.release(tunnel)
    assert [what for what, *_ in node.announced.all] == ["bound", "withdrawn"]


@pytest.mark.parametrize(("epoch", "evicted"), [(4, False), (5, True), (6, True)])
def test_eviction_spares_a_higher_epoch(node: Node, epoch: int, evicted: bool) -> None:
    """An eviction decided about one epoch says nothing of those after it."""
    holder = FakeHolder()
    tunnel = node.bind(holder, 5)
    node.table.evict(LABEL, epoch, REVOKED)
    assert (node.tunnels.live(LABEL) is None) is evicted
    assert holder.taken == ([(tunnel, REVOKED)] if evicted else [])
    node.table.evict(LABEL, epoch, REVOKED)
    assert len(holder.taken) == evicted


def test_evicting_an_unknown_label_does_nothing(node: Node) -> None:
    """The registry may be late."""
    node.table.evict(label_of(OTHER), 4096, REVOKED)
    assert node.announced.all == []


def test_a_suspended_tunnel_is_evicted_too(node: Node) -> None:
    """Its holder must not come back to it."""
    holder = FakeHolder()
    tunnel = node.bind(holder)
    node.table.suspend(tunnel)
    node.table.evict(LABEL, 1, REVOKED)
    node.table.resume(tunnel)
    assert node.tunnels.live(LABEL) is None
    assert holder.taken == [(tunnel, REVOKED)]


def test_a_token_has_as_many_tunnels_as_its_quota(node: Node) -> None:
    """All sessions of a token together; other tokens are not touched; what is closed is free again."""
    one, two = FakeHolder("t1", max_tunnels=2), FakeHolder("t1", max_tunnels=2)
    node.bind(one, key=KEY)
    second = node.bind(two, key=OTHER)
    refusal = node.refused(one, key=THIRD)
    assert refusal.code == FAILURE_CODE_QUOTA
    assert "2 tunnels" in refusal.message
    assert "quota" in refusal.message
    node.bind(FakeHolder("t2", max_tunnels=1), key=THIRD)
    node.table.release(second)
    assert node.bind(one, 2, key=OTHER).live


def test_a_tenant_has_as_many_tunnels_as_its_quota(node: Node) -> None:
    """All its tokens together; the refusal names the tenant, another tenant is not touched, and room is used again."""
    one, two = FakeHolder("t1", tenant_max_tunnels=2), FakeHolder("t2", tenant_max_tunnels=2)
    node.bind(one, key=KEY)
    second = node.bind(two, key=OTHER)
    refusal = node.refused(two, key=THIRD)
    assert refusal.code == FAILURE_CODE_QUOTA
    assert "tenant acme may have 2 tunnels" in refusal.message
    node.bind(FakeHolder("t3", tenant="other", tenant_max_tunnels=1), key=THIRD)
    node.table.suspend(second)
    assert node.bind(one, 2, key=OTHER).live
    assert node.refused(one, 2, key=THIRD).code == FAILURE_CODE_QUOTA


def test_a_token_takes_over_a_label_of_its_tenant(node: Node) -> None:
    """The tunnel that it replaces leaves its place in the tenant's quota, and not in the token's own."""
    node.bind(FakeHolder("t1", tenant_max_tunnels=1), 1)
    assert node.bind(FakeHolder("t2", tenant_max_tunnels=1), 2).live
    full = FakeHolder("t3", max_tunnels=1, tenant_max_tunnels=2)
    node.bind(full, key=OTHER)
    assert "this token may have 1 tunnels" in node.refused(full, 3).message


def test_a_quota_of_nought_is_none(node: Node) -> None:
    """0 stands for no limit."""
    holder = FakeHolder(max_tunnels=0, tenant_max_tunnels=0)
    for key in (KEY, OTHER, THIRD):
        node.bind(holder, key=key)
    assert len(node.tunnels) == 3


def test_taking_over_its_own_tunnel_costs_a_token_nothing(node: Node) -> None:
    """A full token may rebind what it has; taking another token's label needs room."""
    node.bind(FakeHolder("t1", max_tunnels=1), 1)
    assert node.bind(FakeHolder("t1", max_tunnels=1), 2).live
    node.bind(FakeHolder("t2", max_tunnels=1), key=OTHER)
    assert node.refused(FakeHolder("t2", max_tunnels=1), 3).code == FAILURE_CODE_QUOTA
    assert len(node.tunnels) == 2


def test_a_quota_that_was_used_up_meanwhile_ends_a_suspended_tunnel(node: Node) -> None:
    """Room is not kept for who is away: coming back is refused, and the tunnel is over."""
    away, here = FakeHolder("t1", max_tunnels=1), FakeHolder("t1", max_tunnels=1)
    tunnel = node.bind(away)
    node.table.suspend(tunnel)
    node.bind(here, key=OTHER)
    with pytest.raises(Refused) as caught:
        node.table.resume(tunnel)
    assert caught.value.code == FAILURE_CODE_QUOTA
    other = node.tunnels.live(label_of(OTHER))
    assert other is not None
    node.table.release(other)
    node.table.resume(tunnel)
    assert node.tunnels.live(LABEL) is None
