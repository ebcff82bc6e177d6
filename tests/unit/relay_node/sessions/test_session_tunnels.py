"""BIND, UNBIND and MOVED of one session: what they are answered, and what happens to its tunnels while it is away."""

from collections.abc import Callable

import pytest
from portway_carrier.errors import PeerSilent
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_INVALID,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_PORTS,
    FAILURE_CODE_QUOTA,
    Failure,
    Unbound,
)
from portway_proto.wire.statements import SigningKey
from portway_testkit.fakes.node_sessions import NodeSessions, new_key
from portway_testkit.links.carrier_link import until
from portway_testkit.signers import label_of

MakeNode = Callable[..., NodeSessions]
QUOTA = Failure(code=FAILURE_CODE_QUOTA, message="too many")


async def test_bind_gives_the_tunnels_address(node: NodeSessions, key: SigningKey) -> None:
    """Host and port as visitors use them; nothing of a raw port that was not asked for."""
    bound = await (await node.attach()).bind(key)
    assert (bound.host, bound.port) == (f"{label_of(key)}.fra.example.com", 443)
    assert (bound.unencrypted_host, bound.unencrypted_port, bound.ticket) == ("", 0, b"")
    tunnel = node.tunnels.live(label_of(key))
    assert tunnel is not None
    assert (tunnel.holder.tenant, tunnel.h2_enabled) == ("acme", False)


async def test_an_unencrypted_tunnel_has_a_raw_port_beside_it(node: NodeSessions, key: SigningKey) -> None:
    """The port listens from BOUND on, and a ticket for it comes along."""
    bound = await (await node.attach()).bind(key, unencrypted=True)
    assert bound.host == f"{label_of(key)}.fra.example.com"
    assert bound.unencrypted_host == "raw.example.com"
    tunnel = node.tunnels.live(label_of(key))
    assert tunnel is not None
    assert tunnel.raw is not None
    assert tunnel.raw.port == bound.unencrypted_port
    assert tunnel.raw.listening
    assert bound.ticket


async def test_options_reach_the_table(node: NodeSessions, key: SigningKey) -> None:
    """The ingress asks the table whether a tunnel speaks h2."""
    client = await node.attach()
    client.ask(key, h2_enabled=True)
    await client.bound()
    tunnel = node.tunnels.live(label_of(key))
    assert tunnel is not None
    assert tunnel.h2_enabled


async def test_a_ticket_brings_the_raw_port_back(node: NodeSessions, key: SigningKey) -> None:
    """To another session of the same label, while the port rests."""
    first = await node.attach()
    bound = await first.bind(key, unencrypted=True)
    first.leave()
    again = await (await node.attach()).bind(key, 2, ticket=bound.ticket, unencrypted=True)
    assert again.unencrypted_port == bound.unencrypted_port


@pytest.mark.parametrize("kind", ["garbage", "another label's"])
async def test_a_ticket_that_says_nothing_here_is_no_reason_to_refuse(
    node: NodeSessions, key: SigningKey, kind: str
) -> None:
    """It is a wish: the tunnel gets another port."""
    other = await (await node.attach()).bind(new_key(), unencrypted=True)
    ticket = b"garbage" if kind == "garbage" else other.ticket
    bound = await (await node.attach()).bind(key, ticket=ticket, unencrypted=True)
    assert bound.unencrypted_port
    assert bound.unencrypted_port != other.unencrypted_port


async def test_h2_and_unencrypted_exclude_each_other(node: NodeSessions, key: SigningKey) -> None:
    """A raw port has no ALPN to offer h2 by."""
    client = await node.attach()
    client.ask(key, h2_enabled=True, unencrypted=True)
    assert (await client.refused()).code == FAILURE_CODE_INVALID
    assert node.tunnels.live(label_of(key)) is None


async def test_a_bind_that_is_sent_again_is_answered_again(node: NodeSessions, key: SigningKey) -> None:
    """Its answer was lost: nothing changes, and nothing is announced twice."""
    client = await node.attach()
    first = await client.bind(key, unencrypted=True)
    second = await client.bind(key, unencrypted=True)
    assert (second.host, second.unencrypted_port) == (first.host, first.unencrypted_port)
    assert node.announced.news == [("bound", label_of(key), 1)]
    assert len(client.session.tunnels) == 1


async def test_a_session_may_raise_the_epoch_of_its_own_tunnel(node: NodeSessions, key: SigningKey) -> None:
    """The binding is replaced without an UNBOUND."""
    client = await node.attach()
    await client.bind(key)
    await client.bind(key, 2)
    assert not client.lane.said
    tunnel = node.tunnels.live(label_of(key))
    assert tunnel is not None
    assert tunnel.epoch == 2
    assert client.session.tunnels == {label_of(key): tunnel}


@pytest.mark.parametrize("epoch", [1, 2])
async def test_a_lower_epoch_of_another_session_is_refused(node: NodeSessions, key: SigningKey, epoch: int) -> None:
    """The holder notices nothing; the other one is shown the claim that owns the label."""
    holder, other = await node.attach(), await node.attach()
    await holder.bind(key, 3)
    other.ask(key, epoch)
    refusal = await other.refusal()
    tunnel = node.tunnels.live(label_of(key))
    assert tunnel is not None
    assert (refusal.failure.code, refusal.claim) == (FAILURE_CODE_EPOCH, tunnel.claim.encoded)
    assert not holder.lane.said
    assert node.tunnels.live(label_of(key)) is holder.session.tunnels[label_of(key)]
    assert not other.session.tunnels


async def test_a_higher_epoch_takes_the_label_at_once(node: NodeSessions, key: SigningKey) -> None:
    """The old holder is told UNBOUND with EPOCH and has it no more; its late goodbye does no harm."""
    holder, other = await node.attach(), await node.attach()
    await holder.bind(key)
    await other.bind(key, 2)
    unbound = holder.lane.take(Unbound)
    assert (unbound.label, unbound.failure.code) == (label_of(key), FAILURE_CODE_EPOCH)
    assert not holder.session.tunnels
    holder.unbind(key)
    holder.leave()
    tunnel = node.tunnels.live(label_of(key))
    assert tunnel is other.session.tunnels[label_of(key)]


async def test_unbind_is_not_answered(node: NodeSessions, key: SigningKey) -> None:
    """The label is free at once; UNBIND of what is not there is nothing."""
    client = await node.attach()
    await client.bind(key)
    client.unbind(key)
    client.unbind(key)
    client.unbind(new_key())
    assert not client.lane.said
    assert not client.lane.closed
    assert node.tunnels.live(label_of(key)) is None
    assert node.announced.news[-2:] == [("withdrawn", label_of(key), 1), ("closed", label_of(key), 1)]


async def test_nobody_unbinds_for_somebody_else(node: NodeSessions, key: SigningKey) -> None:
    """UNBIND speaks of the session's own tunnels."""
    holder, other = await node.attach(), await node.attach()
    await holder.bind(key)
    other.unbind(key)
    assert node.tunnels.live(label_of(key)) is not None


async def test_the_tokens_quota_holds_over_all_its_sessions(node: NodeSessions) -> None:
    """Refused with QUOTA, which tells how many there may be; a tunnel less and it works."""
    first = await node.attach(node.grant(max_tunnels=2))
    second = await node.attach(node.grant(max_tunnels=2))
    one, two, three = new_key(), new_key(), new_key()
    await first.bind(one)
    await second.bind(two)
    second.ask(three)
    failure = await second.refused()
    assert failure.code == FAILURE_CODE_QUOTA
    assert "2 tunnels" in failure.message
    first.unbind(one)
    await second.bind(three)


async def test_one_client_has_a_limit_at_a_node(make_node: MakeNode) -> None:
    """Whatever its token may: a tunnel that it has already does not count again."""
    node = make_node(max_tunnels_per_session=1)
    client = await node.attach()
    key = new_key()
    await client.bind(key)
    client.ask(new_key())
    failure = await client.refused()
    assert failure.code == FAILURE_CODE_OVERLOADED
    assert "close one" in failure.message
    await client.bind(key, 2)


async def test_binds_are_limited_in_rate(make_node: MakeNode) -> None:
    """A burst, then so many a second: each costs the node's processor."""
    node = make_node(bind_burst=2, binds_per_second=1)
    client = await node.attach()
    await client.bind(new_key())
    await client.bind(new_key())
    client.ask(new_key())
    refused = await client.refused()
    assert (refused.code, refused.retry_after_ms) == (FAILURE_CODE_OVERLOADED, 1_000)
    client.ask(new_key())
    assert (await client.refused()).retry_after_ms == 2_000  # those who ask together do not come back together
    node.clock.now += 1
    await client.bind(new_key())


async def test_a_range_of_raw_ports_that_is_used_up_is_told(make_node: MakeNode, key: SigningKey) -> None:
    """With PORTS: another node may have one. The label is not bound without."""
    node = make_node()
    account = node.raw_ports.account
    for port in range(account.range.first, account.range.last + 1):
        account.hold(port, "somebody")
    client = await node.attach()
    client.ask(key, unencrypted=True)
    await until(lambda: bool(client.lane.said))
    failure = await client.refused()
    assert failure.code == FAILURE_CODE_PORTS
    assert node.region.rooms_asked == 1
    assert "--raw-ports" in failure.message
    assert node.tunnels.live(label_of(key)) is None


async def test_the_registry_can_take_a_tunnel_back(node: NodeSessions, key: SigningKey) -> None:
    """An eviction is UNBOUND, with its reason; one that speaks of a lower epoch is late and nothing."""
    client = await node.attach()
    await client.bind(key, 2)
    node.table.evict(label_of(key), 1, QUOTA)
    assert not client.lane.said
    node.table.evict(label_of(key), 2, QUOTA)
    assert client.lane.take(Unbound).failure == QUOTA
    assert not client.session.tunnels
    assert node.tunnels.live(label_of(key)) is None


async def test_what_was_taken_while_the_client_was_away_is_told_when_it_is_back(
    node: NodeSessions, key: SigningKey
) -> None:
    """A resumed session binds nothing anew, so it would believe for ever that it has the tunnel."""
    client = await node.attach()
    kept = new_key()
    await client.bind(key)
    await client.bind(kept)
    client.lose(PeerSilent("silence"))
    await (await node.attach()).bind(key, 2)
    again = await node.attach(resume=client.welcome)
    unbound = again.lane.take(Unbound)
    assert (unbound.label, unbound.failure.code) == (label_of(key), FAILURE_CODE_EPOCH)
    assert not again.lane.said
    assert list(again.session.tunnels) == [label_of(kept)]


async def test_what_was_told_on_a_lane_that_then_broke_is_told_again(node: NodeSessions, key: SigningKey) -> None:
    """A lane that is silent swallows what is sent on it; a tunnel bound again since is not spoken of."""
    client = await node.attach()
    back = new_key()
    await client.bind(key)
    await client.bind(back)
    for lost in (key, back):
        node.table.evict(label_of(lost), 1, QUOTA)
    client.lane.said.clear()
    await client.bind(back, 2)
    again = await node.attach(resume=client.welcome)
    assert again.lane.take(Unbound).label == label_of(key)
    assert not again.lane.said


async def test_what_cannot_be_had_again_is_unbound(node: NodeSessions, key: SigningKey) -> None:
    """While the client was away its token's quota went to another session."""
    grant = node.grant(max_tunnels=1)
    client = await node.attach(grant)
    await client.bind(key)
    client.lose()
    await (await node.attach(grant)).bind(new_key())
    again = await node.attach(grant, resume=client.welcome)
    unbound = again.lane.take(Unbound)
    assert (unbound.label, unbound.failure.code) == (label_of(key), FAILURE_CODE_QUOTA)
    assert not again.session.tunnels
