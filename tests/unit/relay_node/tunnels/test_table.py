"""Whose a label is: claims and who wins them, and goodbyes that come too late."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_INVALID,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_PORTS,
    FAILURE_CODE_PROOF,
    FAILURE_CODE_QUOTA,
    FAILURE_CODE_REVOKED,
    Failure,
)
from portway_proto.wire.labels import Chain
from portway_relay.config import PortRange
from portway_relay.errors import ListenError, Refused
from portway_relay.tunnels import raw as raw_module
from portway_relay.tunnels.proofs import Proofs
from portway_relay.tunnels.raw import RawPorts
from portway_relay.tunnels.table import TunnelTable
from portway_relay.tunnels.tunnel import Tunnel
from portway_testkit.clock import ManualClock
from portway_testkit.raw_ports import own_ports

CHAIN = Chain(b"\x01" * 32)
OTHER = Chain(b"\x02" * 32)
THIRD = Chain(b"\x03" * 32)
REVOKED = Failure(code=FAILURE_CODE_REVOKED, message="the token was revoked")

FreePorts = Callable[[int], PortRange]


@dataclass(eq=False)
class FakeHolder:
    """A session that remembers what was taken from it."""

    token_id: str = "t1"
    max_tunnels: int = 0
    tenant: str = "acme"
    pool: Any = None
    taken: list[tuple[Tunnel, Failure]] = field(default_factory=list)

    def tunnel_taken(self, tunnel: Tunnel, failure: Failure) -> None:
        self.taken.append((tunnel, failure))


class Announced:
    """What the registry would be told, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, int]] = []

    def bound(self, tunnel: Tunnel) -> None:
        assert tunnel.live
        self.all.append(("bound", tunnel.label, tunnel.epoch))

    def withdrawn(self, label: str, epoch: int) -> None:
        self.all.append(("withdrawn", label, epoch))


class Node:
    """A table with everything around it."""

    def __init__(self, clock: ManualClock, ports: PortRange) -> None:
        self.announced = Announced()
        self.account = own_ports(ports, clock)
        raw = RawPorts("127.0.0.1", self.account, lambda label, sock, peer: sock.close())
        self.known_epochs: dict[str, int] = {}
        self.table = TunnelTable(
            raw,
            self.announced,
            known_epoch=lambda label: self.known_epochs.get(label, 0),
            proofs=Proofs(1_000, 5_000, clock),
            max_visits=3,
            clock=clock,
        )

    def claim(self, holder: FakeHolder, epoch: int = 1, chain: Chain = CHAIN, **options: Any) -> Tunnel:
        chosen = {"h2_enabled": False, "unencrypted": False, "wanted_port": None} | options
        proof = chosen.pop("proof") if "proof" in chosen else chain.proof(epoch)
        return self.table.claim(holder, chosen.pop("label", chain.label), epoch, proof, **chosen)

    def refused(self, holder: FakeHolder, epoch: int = 1, chain: Chain = CHAIN, **options: Any) -> Refused:
        """The refusal of a claim, which must leave everything as it was."""
        before = self.state()
        with pytest.raises(Refused) as caught:
            self.claim(holder, epoch, chain, **options)
        assert self.state() == before
        return caught.value

    def state(self) -> tuple[object, ...]:
        live = {tunnel.label: (tunnel, tunnel.raw) for tunnel in self.table.all_live()}
        return live, len(self.table), self.account.held, self.account.resting, list(self.announced.all)


@pytest.fixture
def node(clock: ManualClock) -> Node:
    """For tests without raw ports: none is opened."""
    return Node(clock, PortRange(20_000, 20_009))


def test_a_claim_with_a_proof_binds_the_label(node: Node, clock: ManualClock) -> None:
    """Visitors are routed to the tunnel from then on, and the registry is told."""
    holder = FakeHolder()
    tunnel = node.claim(holder, 3, h2_enabled=True)
    assert node.table.live(CHAIN.label) is tunnel
    assert list(node.table.all_live()) == [tunnel]
    assert len(node.table) == 1
    assert (tunnel.epoch, tunnel.holder, tunnel.h2_enabled, tunnel.max_visits) == (3, holder, True, 3)
    assert tunnel.opened_at_ms == int(clock.now * 1000)
    assert tunnel.raw is None
    assert node.announced.all == [("bound", CHAIN.label, 3)]


def test_a_label_that_nobody_holds_leads_nowhere(node: Node) -> None:
    """Neither an unknown label nor anything else is found."""
    node.claim(FakeHolder())
    assert node.table.live(OTHER.label) is None
    assert node.table.live("") is None


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
    assert node.table.live(CHAIN.label) is tunnel
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
    visit = object()
    before.visits.add(visit)
    after = node.claim(new, 2)
    assert node.table.live(CHAIN.label) is after
    assert not before.live
    assert before.visits == {visit}
    assert after.visits == set()
    ((taken, failure),) = old.taken
    assert taken is before
    assert failure.code == FAILURE_CODE_EPOCH
    assert new.taken == []
    assert len(node.table) == 1
    assert node.announced.all == [("bound", CHAIN.label, 1), ("bound", CHAIN.label, 2)]


def test_a_holder_that_raises_its_own_epoch_is_not_told(node: Node) -> None:
    """It knows: it asked for that."""
    holder = FakeHolder()
    before = node.claim(holder, 1)
    after = node.claim(holder, 2)
    assert holder.taken == []
    assert not before.live
    assert node.table.live(CHAIN.label) is after


def test_a_late_goodbye_never_removes_the_new_holder(node: Node) -> None:
    """Whatever the old holder still does with its tunnel, the label stays the new one's."""
    before = node.claim(FakeHolder("t1"), 1)
    after = node.claim(FakeHolder("t2"), 2)
    told = list(node.announced.all)
    node.table.suspend(before)
    node.table.resume(before)
    node.table.release(before)
    assert node.table.live(CHAIN.label) is after
    assert not before.live
    assert len(node.table) == 1
    assert node.announced.all == told


def test_a_suspended_tunnel_is_not_visited(node: Node) -> None:
    """While its holder is away nobody is routed to it and it does not count; back it is the same tunnel."""
    tunnel = node.claim(FakeHolder())
    node.table.suspend(tunnel)
    node.table.suspend(tunnel)
    assert node.table.live(CHAIN.label) is None
    assert len(node.table) == 0
    node.table.resume(tunnel)
    node.table.resume(tunnel)
    assert node.table.live(CHAIN.label) is tunnel
    assert len(node.table) == 1
    assert [what for what, *_ in node.announced.all] == ["bound", "withdrawn", "bound"]


def test_a_suspended_tunnel_is_taken_over_by_a_higher_epoch(node: Node) -> None:
    """A client that came back another way wins over what it left."""
    old = FakeHolder("t1")
    before = node.claim(old, 1)
    node.table.suspend(before)
    after = node.claim(FakeHolder("t1"), 2)
    assert node.table.live(CHAIN.label) is after
    assert old.taken[0][0] is before
    assert len(node.table) == 1


def test_a_released_tunnel_is_gone(node: Node) -> None:
    """Once, however often it is said; the label can be bound again."""
    tunnel = node.claim(FakeHolder(), 1)
    node.table.release(tunnel)
    node.table.release(tunnel)
    node.table.resume(tunnel)
    node.table.suspend(tunnel)
    assert node.table.live(CHAIN.label) is None
    assert len(node.table) == 0
    assert [what for what, *_ in node.announced.all] == ["bound", "withdrawn"]
    assert node.claim(FakeHolder(), 2).live


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
    assert (node.table.live(CHAIN.label) is None) is evicted
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
    assert node.table.live(CHAIN.label) is None
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


def test_a_quota_of_nought_is_none(node: Node) -> None:
    """0 stands for no limit."""
    holder = FakeHolder(max_tunnels=0)
    for chain in (CHAIN, OTHER, THIRD):
        node.claim(holder, chain=chain)
    assert len(node.table) == 3


def test_taking_over_its_own_tunnel_costs_a_token_nothing(node: Node) -> None:
    """A full token may rebind what it has; taking another token's label needs room."""
    node.claim(FakeHolder("t1", max_tunnels=1), 1)
    assert node.claim(FakeHolder("t1", max_tunnels=1), 2).live
    node.claim(FakeHolder("t2", max_tunnels=1), chain=OTHER)
    assert node.refused(FakeHolder("t2", max_tunnels=1), 3).code == FAILURE_CODE_QUOTA
    assert len(node.table) == 2


def test_a_quota_that_was_used_up_meanwhile_ends_a_suspended_tunnel(node: Node) -> None:
    """Room is not kept for who is away: coming back is refused, and the tunnel is over."""
    away, here = FakeHolder("t1", max_tunnels=1), FakeHolder("t1", max_tunnels=1)
    tunnel = node.claim(away)
    node.table.suspend(tunnel)
    node.claim(here, chain=OTHER)
    with pytest.raises(Refused) as caught:
        node.table.resume(tunnel)
    assert caught.value.code == FAILURE_CODE_QUOTA
    node.table.release(node.table.live(OTHER.label))
    node.table.resume(tunnel)
    assert node.table.live(CHAIN.label) is None


async def test_an_unencrypted_tunnel_has_a_port(clock: ManualClock, free_ports: FreePorts) -> None:
    """It listens while the tunnel is live, is paused with it, and rests after it."""
    node = Node(clock, free_ports(3))
    tunnel = node.claim(FakeHolder(), unencrypted=True, wanted_port=node.account.range.last)
    assert tunnel.raw is not None
    assert tunnel.raw.port == node.account.range.last
    assert tunnel.raw.listening
    node.table.suspend(tunnel)
    assert not tunnel.raw.listening
    assert node.account.held == 1
    node.table.resume(tunnel)
    assert tunnel.raw.listening
    node.table.release(tunnel)
    assert not tunnel.raw.listening
    assert (node.account.held, node.account.resting) == (0, 1)


@pytest.mark.parametrize("away", [False, True])
async def test_a_label_keeps_its_port_when_it_is_taken_over(
    clock: ManualClock, free_ports: FreePorts, away: bool
) -> None:
    """The new holder has the same raw port at once; the old one's goodbye does not close it."""
    node = Node(clock, free_ports(3))
    before = node.claim(FakeHolder("t1"), 1, unencrypted=True)
    assert before.raw is not None
    port = before.raw.port
    if away:
        node.table.suspend(before)
    after = node.claim(FakeHolder("t2"), 2, unencrypted=True)
    assert after.raw is not None
    assert (after.raw.port, after.raw.listening) == (port, True)
    node.table.release(before)
    assert after.raw.listening
    assert node.account.held == 1
    node.table.release(after)
    assert node.account.held == 0


async def test_a_port_that_the_new_holder_does_not_want_rests(clock: ManualClock, free_ports: FreePorts) -> None:
    """A label bound again without a raw port lets go of the one it had."""
    node = Node(clock, free_ports(3))
    node.claim(FakeHolder(), 1, unencrypted=True)
    after = node.claim(FakeHolder(), 2)
    assert after.raw is None
    assert (node.account.held, node.account.resting) == (0, 1)


async def test_a_label_whose_port_was_lost_gets_another(clock: ManualClock, free_ports: FreePorts) -> None:
    """When another program took the paused port, the new holder has a new one, and the old rests."""
    node = Node(clock, free_ports(3))
    before = node.claim(FakeHolder(), 1, unencrypted=True)
    assert before.raw is not None
    lost = before.raw.port
    node.table.suspend(before)
    with socket.create_server(("127.0.0.1", lost)):
        after = node.claim(FakeHolder(), 2, unencrypted=True)
    assert after.raw is not None
    assert after.raw.port != lost
    assert (node.account.held, node.account.resting) == (1, 1)
    node.table.release(after)


async def test_a_lost_port_ends_a_tunnel_that_comes_back(clock: ManualClock, free_ports: FreePorts) -> None:
    """Its address is not its own any more: the client is told to open it again."""
    node = Node(clock, free_ports(1))
    tunnel = node.claim(FakeHolder(), unencrypted=True)
    assert tunnel.raw is not None
    node.table.suspend(tunnel)
    with socket.create_server(("127.0.0.1", tunnel.raw.port)), pytest.raises(Refused) as caught:
        node.table.resume(tunnel)
    assert caught.value.code == FAILURE_CODE_PORTS
    assert node.table.live(CHAIN.label) is None
    assert node.account.held == 0


async def test_a_range_that_is_used_up_refuses_the_claim(clock: ManualClock, free_ports: FreePorts) -> None:
    """Without a port there is no tunnel, and whoever held the label before holds it still."""
    node = Node(clock, free_ports(1))
    holder = FakeHolder("t1")
    full = node.claim(FakeHolder("t2"), chain=OTHER, unencrypted=True)
    before = node.claim(holder, 1)
    refusal = node.refused(FakeHolder("t3"), 2, unencrypted=True)
    assert refusal.code == FAILURE_CODE_PORTS
    assert "--raw-ports" in refusal.message
    assert node.table.live(CHAIN.label) is before
    assert holder.taken == []
    node.table.release(full)


async def test_ports_that_cannot_be_opened_refuse_the_claim(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Out of descriptors the client is told to try again, and the operator why."""

    def open_sockets(endpoint: object) -> None:
        raise ListenError(f"cannot listen on {endpoint}: Too many open files")

    monkeypatch.setattr(raw_module, "open_sockets", open_sockets)
    node = Node(clock, PortRange(20_000, 29_999))
    refusal = node.refused(FakeHolder(), unencrypted=True)
    assert refusal.code == FAILURE_CODE_PORTS
    assert "Too many" not in refusal.message
    assert "Too many open files" in caplog.text


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_an_epoch_that_another_node_has_is_refused(node: Node, epoch: int) -> None:
    """Equal or lower than what is known of any node: the claim comes too late, and the answer says which is needed."""
    node.known_epochs[CHAIN.label] = 3
    refusal = node.refused(FakeHolder(), epoch)
    assert refusal.code == FAILURE_CODE_EPOCH
    assert "epoch 3" in str(refusal)
    assert node.claim(FakeHolder(), 4).epoch == 4


def test_a_holder_that_returns_too_late_has_lost_its_label(node: Node) -> None:
    """While it was away its tunnel was bound at another node: it is released here, and the holder is told."""
    tunnel = node.claim(FakeHolder(), 1)
    node.table.suspend(tunnel)
    node.known_epochs[CHAIN.label] = 2
    with pytest.raises(Refused) as refusal:
        node.table.resume(tunnel)
    assert refusal.value.code == FAILURE_CODE_EPOCH
    assert node.table.epoch(CHAIN.label) == 0


def test_a_holder_that_returns_in_time_keeps_its_epoch(node: Node) -> None:
    """The epoch known of this node itself is no reason against it."""
    tunnel = node.claim(FakeHolder(), 1)
    node.table.suspend(tunnel)
    assert node.table.epoch(CHAIN.label) == 1
    node.known_epochs[CHAIN.label] = 1
    node.table.resume(tunnel)
    assert node.table.live(CHAIN.label) is tunnel


def test_a_token_that_makes_proofs_up_is_told_to_wait(node: Node, clock: ManualClock) -> None:
    """OVERLOADED, with the moment from which on it may ask again; another token binds meanwhile."""
    hostile, honest = FakeHolder(token_id="hostile"), FakeHolder(token_id="honest")
    with pytest.raises(Refused) as caught:
        node.claim(hostile, 4_096, proof=bytes(32))
    assert caught.value.code == FAILURE_CODE_PROOF
    with pytest.raises(Refused) as caught:
        node.claim(hostile, 4_096, proof=bytes(32))
    assert caught.value.code == FAILURE_CODE_OVERLOADED
    assert caught.value.retry_after == pytest.approx((2 * 4_096 - 5_000) / 1_000)
    assert node.claim(honest, 4_000).epoch == 4_000
