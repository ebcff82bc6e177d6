"""Raw ports in the table of tunnels, and labels that another node has or had."""

import socket

import pytest
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_PORTS,
)
from portway_proto.wire.statements import SigningKey
from portway_relay.config import PortRange
from portway_relay.errors import Refused
from portway_relay.raw_ports import sockets as raw_module
from portway_runtime.errors import ListenError
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.raw_ports import signed_by
from portway_testkit.fakes.tunnel_table import (
    KEY,
    LABEL,
    OTHER,
    FakeHolder,
    FreePorts,
    Node,
    table_node,  # noqa: F401 - the fixture `node`
)
from portway_testkit.signers import SessionSigner, label_of


async def test_an_unencrypted_tunnel_has_a_port(clock: ManualClock, free_ports: FreePorts) -> None:
    """It listens while the tunnel is live, is paused with it, and rests after it."""
    node = Node(clock, free_ports(3))
    tunnel = node.bind(FakeHolder(), unencrypted=True, ticket=signed_by("here")(LABEL, node.account.range.last))
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
    before = node.bind(FakeHolder("t1"), 1, unencrypted=True)
    assert before.raw is not None
    port = before.raw.port
    if away:
        node.table.suspend(before)
    after = node.bind(FakeHolder("t2"), 2, unencrypted=True)
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
    node.bind(FakeHolder(), 1, unencrypted=True)
    after = node.bind(FakeHolder(), 2)
    assert after.raw is None
    assert (node.account.held, node.account.resting) == (0, 1)


async def test_a_label_whose_port_was_lost_gets_another(clock: ManualClock, free_ports: FreePorts) -> None:
    """When another program took the paused port, the new holder has a new one, and the old rests."""
    node = Node(clock, free_ports(3))
    before = node.bind(FakeHolder(), 1, unencrypted=True)
    assert before.raw is not None
    lost = before.raw.port
    node.table.suspend(before)
    with socket.create_server(("127.0.0.1", lost)):
        after = node.bind(FakeHolder(), 2, unencrypted=True)
    assert after.raw is not None
    assert after.raw.port != lost
    assert (node.account.held, node.account.resting) == (1, 1)
    node.table.release(after)


async def test_a_lost_port_ends_a_tunnel_that_comes_back(clock: ManualClock, free_ports: FreePorts) -> None:
    """Its address is not its own any more: the client is told to open it again."""
    node = Node(clock, free_ports(1))
    tunnel = node.bind(FakeHolder(), unencrypted=True)
    assert tunnel.raw is not None
    node.table.suspend(tunnel)
    with socket.create_server(("127.0.0.1", tunnel.raw.port)), pytest.raises(Refused) as caught:
        node.table.resume(tunnel)
    assert caught.value.code == FAILURE_CODE_PORTS
    assert node.tunnels.live(LABEL) is None
    assert node.account.held == 0


async def test_a_range_that_is_used_up_refuses_the_claim(clock: ManualClock, free_ports: FreePorts) -> None:
    """Without a port there is no tunnel, and whoever held the label before holds it still."""
    node = Node(clock, free_ports(1))
    holder = FakeHolder("t1")
    full = node.bind(FakeHolder("t2"), key=OTHER, unencrypted=True)
    before = node.bind(holder, 1)
    refusal = node.refused(FakeHolder("t3"), 2, unencrypted=True)
    assert refusal.code == FAILURE_CODE_PORTS
    assert "--raw-ports" in refusal.message
    assert node.tunnels.live(LABEL) is before
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


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_epoch_that_another_node_has_is_refused(node: Node, epoch: int) -> None:
    """Lower than what is known of any node: the claim comes too late, and the answer shows the one that it must
    outrank."""
    elsewhere = node.routes.by_label[LABEL] = SessionSigner().claim(KEY, node="a", epoch=3)
    refusal = node.refused(FakeHolder(), epoch)
    assert refusal.code == FAILURE_CODE_EPOCH
    assert "epoch 3" in str(refusal)
    assert refusal.claim == elsewhere.encoded
    assert node.bind(FakeHolder(), 4).epoch == 4


def test_a_holder_that_returns_too_late_has_lost_its_label(node: Node) -> None:
    """While it was away its tunnel was bound at another node: it is released here, and the holder is told."""
    tunnel = node.bind(FakeHolder(), 1)
    node.table.suspend(tunnel)
    elsewhere = node.routes.by_label[LABEL] = SessionSigner().claim(KEY, node="a", epoch=2)
    with pytest.raises(Refused) as refusal:
        node.table.resume(tunnel)
    assert (refusal.value.code, refusal.value.claim) == (FAILURE_CODE_EPOCH, elsewhere.encoded)
    assert node.tunnels.claim(LABEL) is None


def test_a_holder_that_returns_in_time_keeps_its_claim(node: Node) -> None:
    """The claim known of this node itself is no reason against it."""
    tunnel = node.bind(FakeHolder(), 1)
    node.table.suspend(tunnel)
    assert node.tunnels.claim(LABEL) is tunnel.claim
    node.routes.by_label[LABEL] = tunnel.claim
    node.table.resume(tunnel)
    assert node.tunnels.live(LABEL) is tunnel


def test_a_claim_that_places_the_label_elsewhere_ends_the_binding(node: Node) -> None:
    """The holder is shown the claim that owns its label; one of lower rank takes nothing."""
    holder = FakeHolder()
    node.bind(holder, 3)
    assert node.routes.superseded is not None
    node.routes.superseded(SessionSigner().claim(KEY, node="a", epoch=2))
    assert node.tunnels.live(LABEL) is not None
    owner = SessionSigner().claim(KEY, node="a", epoch=4)
    node.routes.superseded(owner)
    assert node.tunnels.live(LABEL) is None
    assert holder.owners == [owner.encoded]
    assert holder.taken[0][1].code == FAILURE_CODE_EPOCH


async def test_a_port_comes_with_a_ticket_that_others_go_by(clock: ManualClock, free_ports: FreePorts) -> None:
    """Of this node's own block it signs a new one; of another node's block the one that was shown stays."""
    node = Node(clock, free_ports(3))
    mine = node.bind(FakeHolder(), 1, unencrypted=True)
    assert mine.raw is not None
    assert mine.raw.ticket == signed_by("here")(LABEL, mine.raw.port).encoded
    node.account.reserved([], {})
    shown = signed_by("a")(label_of(OTHER), node.account.range.first + (mine.raw.port == node.account.range.first))
    theirs = node.bind(FakeHolder(), 1, OTHER, unencrypted=True, ticket=shown)
    assert theirs.raw is not None
    assert (theirs.raw.port, theirs.raw.ticket) == (shown.port, shown.encoded)
    for tunnel in (mine, theirs):
        node.table.release(tunnel)


async def test_one_token_does_not_make_all_ports_rest(clock: ManualClock, free_ports: FreePorts) -> None:
    """A token whose tunnels come and go gets no more ports while as many as it may have rest; others get theirs, and
    so does a label of its own whose port rests, and it when the first port has rested."""
    node = Node(clock, free_ports(6), most_resting=2)
    mine, other = FakeHolder("t1", max_tunnels=1), FakeHolder("t2", max_tunnels=1)
    keys = [SigningKey(bytes([number]) * 32) for number in range(10, 14)]
    for key in keys[:2]:
        node.table.release(node.bind(mine, 1, key, unencrypted=True))
        clock.now += 1
    refused = node.refused(mine, 1, keys[2], unencrypted=True)
    assert (refused.code, refused.retry_after) == (FAILURE_CODE_OVERLOADED, 58.0)
    node.table.release(node.bind(other, 1, keys[3], unencrypted=True))
    again = node.bind(mine, 2, keys[1], unencrypted=True)
    node.table.release(again)
    clock.now += 58
    node.table.release(node.bind(mine, 1, keys[2], unencrypted=True))


async def test_a_port_that_is_given_up_by_a_new_binding_counts_as_well(
    clock: ManualClock, free_ports: FreePorts
) -> None:
    """The label is bound again without a raw port: the old one rests for its token."""
    node = Node(clock, free_ports(6), most_resting=1)
    holder = FakeHolder("t1", max_tunnels=1)
    node.bind(holder, 1, KEY, unencrypted=True)
    node.table.release(node.bind(holder, 2, KEY))
    assert node.refused(holder, 1, OTHER, unencrypted=True).code == FAILURE_CODE_OVERLOADED


async def test_a_token_may_open_all_its_tunnels_again(clock: ManualClock, free_ports: FreePorts) -> None:
    """As many ports of it may rest as its quota, so that a program can be started again; without a quota all."""
    for quota in (3, 0):
        node = Node(clock, free_ports(6), most_resting=1)
        holder = FakeHolder("t1", max_tunnels=quota)
        for start in (20, 30)[: 1 if quota else 2]:
            held = [node.bind(holder, 1, SigningKey(bytes([start + n]) * 32), unencrypted=True) for n in range(3)]
            for tunnel in held:
                node.table.release(tunnel)
        assert node.account.resting == (3 if quota else 6)
