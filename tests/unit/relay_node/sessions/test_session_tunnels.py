"""BIND, UNBIND and MOVED of one session: what they are answered, and what happens to its tunnels while it is away."""

from collections.abc import Callable

import pytest
from portway_carrier.errors import PeerSilent
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_INVALID,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_PORTS,
    FAILURE_CODE_CLAIM,
    FAILURE_CODE_QUOTA,
    Bind,
    Failure,
    Moved,
    Unbound,
)
from portway_proto.wire.frames import FrameType
from portway_proto.wire.labels import Chain
from portway_testkit.fakes.node_sessions import NodeSessions, new_chain
from portway_testkit.links.carrier_link import until

MakeNode = Callable[..., NodeSessions]
QUOTA = Failure(code=FAILURE_CODE_QUOTA, message="too many")


async def test_bind_gives_the_tunnels_address(node: NodeSessions, chain: Chain) -> None:
    """Host and port as visitors use them; nothing of a raw port that was not asked for."""
    bound = node.attach().bind(chain)
    assert (bound.host, bound.port) == (f"{chain.label}.fra.example.com", 443)
    assert (bound.unencrypted_host, bound.unencrypted_port, bound.ticket) == ("", 0, b"")
    tunnel = node.tunnels.live(chain.label)
    assert tunnel is not None
    assert (tunnel.holder.tenant, tunnel.h2_enabled) == ("acme", False)


async def test_an_unencrypted_tunnel_has_a_raw_port_beside_it(node: NodeSessions, chain: Chain) -> None:
    """The port listens from BOUND on, and a ticket for it comes along."""
    bound = node.attach().bind(chain, unencrypted=True)
    assert bound.host == f"{chain.label}.fra.example.com"
    assert bound.unencrypted_host == "raw.example.com"
    tunnel = node.tunnels.live(chain.label)
    assert tunnel is not None
    assert tunnel.raw is not None
    assert tunnel.raw.port == bound.unencrypted_port
    assert tunnel.raw.listening
    assert bound.ticket


async def test_options_reach_the_table(node: NodeSessions, chain: Chain) -> None:
    """The ingress asks the table whether a tunnel speaks h2."""
    client = node.attach()
    client.ask(chain, h2_enabled=True)
    client.bound()
    tunnel = node.tunnels.live(chain.label)
    assert tunnel is not None
    assert tunnel.h2_enabled


async def test_a_ticket_brings_the_raw_port_back(node: NodeSessions, chain: Chain) -> None:
    """To another session of the same label, while the port rests."""
    first = node.attach()
    bound = first.bind(chain, unencrypted=True)
    first.leave()
    again = node.attach().bind(chain, 2, ticket=bound.ticket, unencrypted=True)
    assert again.unencrypted_port == bound.unencrypted_port


@pytest.mark.parametrize("kind", ["garbage", "another label's"])
async def test_a_ticket_that_says_nothing_here_is_no_reason_to_refuse(
    node: NodeSessions, chain: Chain, kind: str
) -> None:
    """It is a wish: the tunnel gets another port."""
    other = node.attach().bind(new_chain(), unencrypted=True)
    ticket = b"garbage" if kind == "garbage" else other.ticket
    bound = node.attach().bind(chain, ticket=ticket, unencrypted=True)
    assert bound.unencrypted_port
    assert bound.unencrypted_port != other.unencrypted_port


async def test_h2_and_unencrypted_exclude_each_other(node: NodeSessions, chain: Chain) -> None:
    """A raw port has no ALPN to offer h2 by."""
    client = node.attach()
    client.ask(chain, h2_enabled=True, unencrypted=True)
    assert client.refused().code == FAILURE_CODE_INVALID
    assert node.tunnels.live(chain.label) is None


async def test_a_bind_without_proof_is_refused(node: NodeSessions, chain: Chain) -> None:
    """A proof of another epoch fits no better than none; the lane goes on."""
    client = node.attach()
    client.ask(chain, 2, proof=chain.proof(1))
    assert client.refused().code == FAILURE_CODE_CLAIM
    client.ask(chain, 1, proof=b"")
    assert client.refused().code == FAILURE_CODE_CLAIM
    assert node.tunnels.live(chain.label) is None
    client.bind(chain)


async def test_what_is_no_label_is_refused(node: NodeSessions) -> None:
    """With a code that says it is the client's mistake."""
    client = node.attach()
    client.send(FrameType.BIND, Bind(request=1, label="Not-A-Label", epoch=1, proof=b"x" * 32))
    client.requests = 1
    assert client.refused().code == FAILURE_CODE_INVALID


async def test_a_bind_that_is_sent_again_is_answered_again(node: NodeSessions, chain: Chain) -> None:
    """Its answer was lost: nothing changes, and nothing is announced twice."""
    client = node.attach()
    first = client.bind(chain, unencrypted=True)
    second = client.bind(chain, unencrypted=True)
    assert (second.host, second.unencrypted_port) == (first.host, first.unencrypted_port)
    assert node.announced.news == [("bound", chain.label, 1)]
    assert len(client.session.tunnels) == 1


async def test_a_session_may_raise_the_epoch_of_its_own_tunnel(node: NodeSessions, chain: Chain) -> None:
    """The binding is replaced without an UNBOUND."""
    client = node.attach()
    client.bind(chain)
    client.bind(chain, 2)
    assert not client.lane.said
    tunnel = node.tunnels.live(chain.label)
    assert tunnel is not None
    assert tunnel.epoch == 2
    assert client.session.tunnels == {chain.label: tunnel}


@pytest.mark.parametrize("epoch", [1, 2])
async def test_an_equal_or_lower_epoch_of_another_session_is_refused(
    node: NodeSessions, chain: Chain, epoch: int
) -> None:
    """The holder notices nothing."""
    holder, other = node.attach(), node.attach()
    holder.bind(chain, 2)
    other.ask(chain, epoch)
    assert other.refused().code == FAILURE_CODE_EPOCH
    assert not holder.lane.said
    assert node.tunnels.live(chain.label) is holder.session.tunnels[chain.label]
    assert not other.session.tunnels


async def test_a_higher_epoch_takes_the_label_at_once(node: NodeSessions, chain: Chain) -> None:
    """The old holder is told UNBOUND with EPOCH and has it no more; its late goodbye does no harm."""
    holder, other = node.attach(), node.attach()
    holder.bind(chain)
    other.bind(chain, 2)
    unbound = holder.lane.take(Unbound)
    assert (unbound.label, unbound.failure.code) == (chain.label, FAILURE_CODE_EPOCH)
    assert not holder.session.tunnels
    holder.unbind(chain)
    holder.leave()
    tunnel = node.tunnels.live(chain.label)
    assert tunnel is other.session.tunnels[chain.label]


async def test_unbind_is_not_answered(node: NodeSessions, chain: Chain) -> None:
    """The label is free at once; UNBIND of what is not there is nothing."""
    client = node.attach()
    client.bind(chain)
    client.unbind(chain)
    client.unbind(chain)
    client.unbind(new_chain())
    assert not client.lane.said
    assert not client.lane.closed
    assert node.tunnels.live(chain.label) is None
    assert node.announced.news[-2:] == [("withdrawn", chain.label, 1), ("closed", chain.label, 1)]


async def test_nobody_unbinds_for_somebody_else(node: NodeSessions, chain: Chain) -> None:
    """UNBIND speaks of the session's own tunnels."""
    holder, other = node.attach(), node.attach()
    holder.bind(chain)
    other.unbind(chain)
    assert node.tunnels.live(chain.label) is not None


async def test_the_tokens_quota_holds_over_all_its_sessions(node: NodeSessions) -> None:
    """Refused with QUOTA, which tells how many there may be; a tunnel less and it works."""
    first = node.attach(node.grant(max_tunnels=2))
    second = node.attach(node.grant(max_tunnels=2))
    one, two, three = new_chain(), new_chain(), new_chain()
    first.bind(one)
    second.bind(two)
    second.ask(three)
    failure = second.refused()
    assert failure.code == FAILURE_CODE_QUOTA
    assert "2 tunnels" in failure.message
    first.unbind(one)
    second.bind(three)


async def test_one_client_has_a_limit_at_a_node(make_node: MakeNode) -> None:
    """Whatever its token may: a tunnel that it has already does not count again."""
    node = make_node(max_tunnels_per_session=1)
    client = node.attach()
    chain = new_chain()
    client.bind(chain)
    client.ask(new_chain())
    failure = client.refused()
    assert failure.code == FAILURE_CODE_OVERLOADED
    assert "close one" in failure.message
    client.bind(chain, 2)


async def test_binds_are_limited_in_rate(make_node: MakeNode) -> None:
    """A burst, then so many a second: a proof costs the node's processor."""
    node = make_node(bind_burst=2, binds_per_second=1)
    client = node.attach()
    client.bind(new_chain())
    client.bind(new_chain())
    client.ask(new_chain())
    refused = client.refused()
    assert (refused.code, refused.retry_after_ms) == (FAILURE_CODE_OVERLOADED, 1_000)
    client.ask(new_chain())
    assert client.refused().retry_after_ms == 2_000  # those who ask together do not come back together
    node.clock.now += 1
    client.bind(new_chain())


async def test_a_range_of_raw_ports_that_is_used_up_is_told(make_node: MakeNode, chain: Chain) -> None:
    """With PORTS: another node may have one. The label is not bound without."""
    node = make_node()
    account = node.raw_ports.account
    for port in range(account.range.first, account.range.last + 1):
        account.hold(port, "somebody")
    client = node.attach()
    client.ask(chain, unencrypted=True)
    await until(lambda: bool(client.lane.said))
    failure = client.refused()
    assert failure.code == FAILURE_CODE_PORTS
    assert node.region.rooms_asked == 1
    assert "--raw-ports" in failure.message
    assert node.tunnels.live(chain.label) is None


async def test_the_registry_can_take_a_tunnel_back(node: NodeSessions, chain: Chain) -> None:
    """An eviction is UNBOUND, with its reason; one that speaks of a lower epoch is late and nothing."""
    client = node.attach()
    client.bind(chain, 2)
    node.table.evict(chain.label, 1, QUOTA)
    assert not client.lane.said
    node.table.evict(chain.label, 2, QUOTA)
    assert client.lane.take(Unbound).failure == QUOTA
    assert not client.session.tunnels
    assert node.tunnels.live(chain.label) is None


async def test_what_was_taken_while_the_client_was_away_is_told_when_it_is_back(
    node: NodeSessions, chain: Chain
) -> None:
    """A resumed session binds nothing anew, so it would believe for ever that it has the tunnel."""
    client = node.attach()
    kept = new_chain()
    client.bind(chain)
    client.bind(kept)
    client.lose(PeerSilent("silence"))
    node.attach().bind(chain, 2)
    again = node.attach(resume=client.welcome)
    unbound = again.lane.take(Unbound)
    assert (unbound.label, unbound.failure.code) == (chain.label, FAILURE_CODE_EPOCH)
    assert not again.lane.said
    assert list(again.session.tunnels) == [kept.label]


async def test_what_was_told_on_a_lane_that_then_broke_is_told_again(node: NodeSessions, chain: Chain) -> None:
    """A lane that is silent swallows what is sent on it; a tunnel bound again since is not spoken of."""
    client = node.attach()
    back = new_chain()
    client.bind(chain)
    client.bind(back)
    for lost in (chain, back):
        node.table.evict(lost.label, 1, QUOTA)
    client.lane.said.clear()
    client.bind(back, 2)
    again = node.attach(resume=client.welcome)
    assert again.lane.take(Unbound).label == chain.label
    assert not again.lane.said


async def test_what_cannot_be_had_again_is_unbound(node: NodeSessions, chain: Chain) -> None:
    """While the client was away its token's quota went to another session."""
    grant = node.grant(max_tunnels=1)
    client = node.attach(grant)
    client.bind(chain)
    client.lose()
    node.attach(grant).bind(new_chain())
    again = node.attach(grant, resume=client.welcome)
    unbound = again.lane.take(Unbound)
    assert (unbound.label, unbound.failure.code) == (chain.label, FAILURE_CODE_QUOTA)
    assert not again.session.tunnels


async def test_a_client_that_leaves_says_where_its_tunnels_are(node: NodeSessions, chain: Chain) -> None:
    """Of tunnels that this very session holds; of others nothing is heard, and no frame is an error for that."""
    client, other = node.attach(), node.attach()
    client.bind(chain)
    for asking, label in ((client, chain.label), (other, chain.label), (client, new_chain().label), (client, "")):
        asking.send(FrameType.MOVED, Moved(label=label, node="fra-2", epoch=2, proof=chain.proof(2)))
        assert asking.lane.failed is None
    client.bind(chain, 3)
    assert node.moved == [(chain.label, 1, "fra-2", 2, chain.proof(2))]
    assert node.tunnels.live(chain.label) is not None


async def test_a_client_says_where_a_tunnel_is_that_was_taken_from_it(node: NodeSessions, chain: Chain) -> None:
    """A registry may know of the next epoch, and tell nobody where it is; once the client lets go it is no holder."""
    client = node.attach()
    client.bind(chain)
    node.table.evict(chain.label, 1, Failure(code=FAILURE_CODE_EPOCH))
    moved = Moved(label=chain.label, node="fra-2", epoch=2, proof=chain.proof(2))
    client.send(FrameType.MOVED, moved)
    client.unbind(chain)
    client.send(FrameType.MOVED, moved)
    assert node.moved == [(chain.label, 1, "fra-2", 2, chain.proof(2))]
