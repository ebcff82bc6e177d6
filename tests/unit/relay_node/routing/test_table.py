"""Whose a label is: claims and who wins them, and goodbyes that come too late."""

from typing import Any

import pytest
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_INVALID,
    FAILURE_CODE_PROOF,
    FAILURE_CODE_QUOTA,
)
from portway_relay.errors import Refused
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.tunnel_table import (
    CHAIN,
    OTHER,
    REVOKED,
    THIRD,
    FakeHolder,
    Node,
    table_node,  # noqa: F401 - the fixture `node`
)


def test_a_claim_with_a_proof_binds_the_label(node: Node, clock: ManualClock) -> None:
    """Visitors are routed to the tunnel from then on, and the registry is told."""
    holder = FakeHolder()
    tunnel = node.claim(holder, 3, h2_enabled=True)
    assert node.tunnels.live(CHAIN.label) is tunnel
    assert list(node.tunnels.all_live()) == [tunnel]
    assert len(node.tunnels) == 1
    assert (tunnel.epoch, tunnel.holder, tunnel.h2_enabled, tunnel.max_visits) == (3, holder, True, 3)
    assert tunnel.opened_at_ms == int(clock.now * 1000)
    assert tunnel.raw is None
    assert node.announced.all == [("bound", CHAIN.label, 3)]


def test_a_label_that_nobody_holds_leads_nowhere(node: Node) -> None:
    """Neither an unknown label nor anything else is found."""
    node.claim(FakeHolder())
    assert node.tunnels.live(OTHER.label) is None
    assert node.tunnels.live("") is None


@pytest.mark.parametrize("label", ["", "short", "K5ZQ2W7B3XAV6MDY", "k5zq2w7b3xav6md1", "a" * 17, "a.b"])
def test_what_has_no_labels_form_is_refused(node: Node, label: str) -> None:
    """A name that could never be visited is not bound."""
    assert node.refused(FakeHolder(), label=label).code == FAILURE_CODE_INVALID


@pytest.mark.parametrize(
    ("epoch", "proof"),
    [
        (1, OTHER.proof(1)),
        (1, CHAIN.proof(2)),
        (2, CHAIN.proof(1)),
        (1, b""),
        (1, CHAIN.proof(1)[:31]),
        (1, CHAIN.proof(1) + b"\x00"),
        (0, CHAIN.proof(1)),
        (4097, CHAIN.proof(4096)),
        (2**31, CHAIN.proof(1)),
    ],
)
def test_a_proof_that_does_not_fit_is_refused(node: Node, epoch: int, proof: bytes) -> None:
    """Another label's, another epoch's, one of the wrong size, an epoch outside the chain."""
    assert node.refused(FakeHolder(), epoch, proof=proof).code == FAILURE_CODE_PROOF


def test_a_forged_epoch_takes_nothing(node: Node) -> None:
    """Who saw the proof of an epoch cannot make the next one."""
    holder = FakeHolder()
    tunnel = node.claim(holder, 5)
    for forged in (CHAIN.proof(5), OTHER.proof(6), bytes(32)):
        assert node.refused(FakeHolder("t2"), 6, proof=forged).code == FAILURE_CODE_PROOF
    assert node.tunnels.live(CHAIN.label) is tunnel
    assert holder.taken == []


@pytest.mark.parametrize("epoch", [1, 4, 5])
def test_an_equal_or_lower_epoch_is_refused(node: Node, epoch: int) -> None:
    """An old proof, shown by somebody else or by a client that is late, does not take the label."""
    holder = FakeHolder()
    node.claim(holder, 5)
    refusal = node.refused(FakeHolder("t2"), epoch)
    assert refusal.code == FAILURE_CODE_EPOCH
    assert "epoch 5" in refusal.message
    assert holder.taken == []


def test_an_equal_epoch_is_refused_while_its_holder_is_away(node: Node) -> None:
    """The holder alone may come back with the epoch it has: by resuming."""
    tunnel = node.claim(FakeHolder(), 5)
    node.table.suspend(tunnel)
    assert node.refused(FakeHolder("t2"), 5).code == FAILURE_CODE_EPOCH


def test_the_same_claim_again_is_the_same_tunnel(node: Node) -> None:
    """A client whose answer was lost asks again: it gets what it has, and nothing is told twice."""
    holder = FakeHolder()
    tunnel = node.claim(holder, 2)
    assert node.claim(holder, 2) is tunnel
    assert len(node.announced.all) == 1


def test_a_higher_epoch_takes_over_at_once(node: Node) -> None:
    """The old holder is told and gets no new visits; those in progress are not cut."""
    old, new = FakeHolder("t1"), FakeHolder("t2")
    before = node.claim(old, 1)
    visit: Any = object()
    before.visits.add(visit)
    after = node.claim(new, 2)
    assert node.tunnels.live(CHAIN.label) is after
    assert not before.live
    assert before.visits == {visit}
    assert after.visits == set()
    ((taken, failure),) = old.taken
    assert taken is before
    assert failure.code == FAILURE_CODE_EPOCH
    assert new.taken == []
    assert len(node.tunnels) == 1
    assert node.announced.all == [("bound", CHAIN.label, 1), ("bound", CHAIN.label, 2)]


def test_a_holder_that_raises_its_own_epoch_is_not_told(node: Node) -> None:
    """It knows: it asked for that."""
    holder = FakeHolder()
    before = node.claim(holder, 1)
    after = node.claim(holder, 2)
    assert holder.taken == []
    assert not before.live
    assert node.tunnels.live(CHAIN.label) is after


def test_a_late_goodbye_never_removes_the_new_holder(node: Node) -> None:
    """Whatever the old holder still does with its tunnel, the label stays the new one's."""
    before = node.claim(FakeHolder("t1"), 1)
    after = node.claim(FakeHolder("t2"), 2)
    told = list(node.announced.all)
    node.table.suspend(before)
    node.table.resume(before)
    node.table.release(before)
    assert node.tunnels.live(CHAIN.label) is after
    assert not before.live
    assert len(node.tunnels) == 1
    assert node.announced.all == told


def test_a_suspended_tunnel_is_not_visited(node: Node) -> None:
    """While its holder is away nobody is routed to it and it does not count; back it is the same tunnel."""
    tunnel = node.claim(FakeHolder())
    node.table.suspend(tunnel)
    node.table.suspend(tunnel)
    assert node.tunnels.live(CHAIN.label) is None
    assert len(node.tunnels) == 0
    node.table.resume(tunnel)
    node.table.resume(tunnel)
    assert node.tunnels.live(CHAIN.label) is tunnel
    assert len(node.tunnels) == 1
    assert [what for what, *_ in node.announced.all] == ["bound", "withdrawn", "bound"]


def test_a_suspended_tunnel_is_taken_over_by_a_higher_epoch(node: Node) -> None:
    """A client that came back another way wins over what it left."""
    old = FakeHolder("t1")
    before = node.claim(old, 1)
    node.table.suspend(before)
    after = node.claim(FakeHolder("t1"), 2)
    assert node.tunnels.live(CHAIN.label) is after
    assert old.taken[0][0] is before
    assert len(node.tunnels) == 1


def test_a_released_tunnel_is_gone(node: Node) -> None:
    """Once, however often it is said; the label can be bound again."""
    tunnel = node.claim(FakeHolder(), 1)
    node.table.release(tunnel)
    node.table.release(tunnel)
    node.table.resume(tunnel)
    node.table.suspend(tunnel)
    assert node.tunnels.live(CHAIN.label) is None
    assert len(node.tunnels) == 0
    assert [what for what, *_ in node.announced.all] == ["bound", "withdrawn"]
    assert node.claim(FakeHolder(), 2).live


@pytest.mark.parametrize("away", [False, True])
def test_a_closed_tunnel_is_said_to_be_so(node: Node, away: bool) -> None:
    """Once, after it was withdrawn; also of one whose holder was away, which nobody was routed to any more."""
    tunnel = node.claim(FakeHolder())
    if away:
        node.table.suspend(tunnel)
    node.table.release(tunnel, closed=True)
    node.table.release(tunnel, closed=True)
    assert [what for what, *_ in node.announced.all] == ["bound", "withdrawn", "closed"]


def test_a_suspended_tunnel_is_withdrawn_once(node: Node) -> None:
    """Releasing what the registry no longer has tells it nothing new."""
    tunnel = node.claim(FakeHolder())
    node.table.suspend(tunnel)
    node.table.release(tunnel)
    assert [what for what, *_ in node.announced.all] == ["bound", "withdrawn"]


@pytest.mark.parametrize(("epoch", "evicted"), [(4, False), (5, True), (6, True)])
def test_eviction_spares_a_higher_epoch(node: Node, epoch: int, evicted: bool) -> None:
    """An eviction decided about one epoch says nothing of those after it."""
    holder = FakeHolder()
    tunnel = node.claim(holder, 5)
    node.table.evict(CHAIN.label, epoch, REVOKED)
    assert (node.tunnels.live(CHAIN.label) is None) is evicted
    assert holder.taken == ([(tunnel, REVOKED)] if evicted else [])
    node.table.evict(CHAIN.label, epoch, REVOKED)
    assert len(holder.taken) == evicted


def test_evicting_an_unknown_label_does_nothing(node: Node) -> None:
    """The registry may be late."""
    node.table.evict(OTHER.label, 4096, REVOKED)
    assert node.announced.all == []


def test_a_suspended_tunnel_is_evicted_too(node: Node) -> None:
    """Its holder must not come back to it."""
    holder = FakeHolder()
    tunnel = node.claim(holder)
    node.table.suspend(tunnel)
    node.table.evict(CHAIN.label, 1, REVOKED)
    node.table.resume(tunnel)
    assert node.tunnels.live(CHAIN.label) is None
    assert holder.taken == [(tunnel, REVOKED)]


def test_a_token_has_as_many_tunnels_as_its_quota(node: Node) -> None:
    """All sessions of a token together; other tokens are not touched; what is closed is free again."""
    one, two = FakeHolder("t1", max_tunnels=2), FakeHolder("t1", max_tunnels=2)
    node.claim(one, chain=CHAIN)
    second = node.claim(two, chain=OTHER)
    refusal = node.refused(one, chain=THIRD)
    assert refusal.code == FAILURE_CODE_QUOTA
    assert "2 tunnels" in refusal.message
    assert "quota" in refusal.message
    node.claim(FakeHolder("t2", max_tunnels=1), chain=THIRD)
    node.table.release(second)
    assert node.claim(one, 2, chain=OTHER).live


def test_a_tenant_has_as_many_tunnels_as_its_quota(node: Node) -> None:
    """All its tokens together; the refusal names the tenant, another tenant is not touched, and room is used again."""
    one, two = FakeHolder("t1", tenant_max_tunnels=2), FakeHolder("t2", tenant_max_tunnels=2)
    node.claim(one, chain=CHAIN)
    second = node.claim(two, chain=OTHER)
    refusal = node.refused(two, chain=THIRD)
    assert refusal.code == FAILURE_CODE_QUOTA
    assert "tenant acme may have 2 tunnels" in refusal.message
    node.claim(FakeHolder("t3", tenant="other", tenant_max_tunnels=1), chain=THIRD)
    node.table.suspend(second)
    assert node.claim(one, 2, chain=OTHER).live
    assert node.refused(one, 2, chain=THIRD).code == FAILURE_CODE_QUOTA


def test_a_token_takes_over_a_label_of_its_tenant(node: Node) -> None:
    """The tunnel that it replaces leaves its place in the tenant's quota, and not in the token's own."""
    node.claim(FakeHolder("t1", tenant_max_tunnels=1), 1)
    assert node.claim(FakeHolder("t2", tenant_max_tunnels=1), 2).live
    full = FakeHolder("t3", max_tunnels=1, tenant_max_tunnels=2)
    node.claim(full, chain=OTHER)
    assert "this token may have 1 tunnels" in node.refused(full, 3).message


def test_a_quota_of_nought_is_none(node: Node) -> None:
    """0 stands for no limit."""
    holder = FakeHolder(max_tunnels=0, tenant_max_tunnels=0)
    for chain in (CHAIN, OTHER, THIRD):
        node.claim(holder, chain=chain)
    assert len(node.tunnels) == 3


def test_taking_over_its_own_tunnel_costs_a_token_nothing(node: Node) -> None:
    """A full token may rebind what it has; taking another token's label needs room."""
    node.claim(FakeHolder("t1", max_tunnels=1), 1)
    assert node.claim(FakeHolder("t1", max_tunnels=1), 2).live
    node.claim(FakeHolder("t2", max_tunnels=1), chain=OTHER)
    assert node.refused(FakeHolder("t2", max_tunnels=1), 3).code == FAILURE_CODE_QUOTA
    assert len(node.tunnels) == 2


def test_a_quota_that_was_used_up_meanwhile_ends_a_suspended_tunnel(node: Node) -> None:
    """Room is not kept for who is away: coming back is refused, and the tunnel is over."""
    away, here = FakeHolder("t1", max_tunnels=1), FakeHolder("t1", max_tunnels=1)
    tunnel = node.claim(away)
    node.table.suspend(tunnel)
    node.claim(here, chain=OTHER)
    with pytest.raises(Refused) as caught:
        node.table.resume(tunnel)
    assert caught.value.code == FAILURE_CODE_QUOTA
    other = node.tunnels.live(OTHER.label)
    assert other is not None
    node.table.release(other)
    node.table.resume(tunnel)
    assert node.tunnels.live(CHAIN.label) is None
