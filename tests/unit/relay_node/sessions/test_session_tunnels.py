"""BIND, UNBIND and MOVED of one session: what they are answered, and what happens to its tunnels while it is away."""

from collections import Counter
from collections.abc import Callable

import pytest
from portway_carrier.errors import PeerSilent
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_CLAIM,
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_INVALID,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_PORTS,
    FAILURE_CODE_PROTOCOL,
    FAILURE_CODE_QUOTA,
    FAILURE_CODE_TIME,
    BindRefused,
    Failure,
    Moved,
    Unbound,
)
from portway_proto.wire.frames import FrameType
from portway_proto.wire.statements import Claim, SigningKey, read_claim, read_presence
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


def tampered(claim: Claim) -> Claim:
    """The claim with another signature."""
    return read_claim(claim.encoded[:-1] + bytes([claim.encoded[-1] ^ 1]))


@pytest.mark.parametrize("kind", ["malformed", "another node's", "another session's", "not presented", "forged"])
async def test_a_claim_that_does_not_fit_is_refused(node: NodeSessions, key: SigningKey, kind: str) -> None:
    """A claim is for this node and this session, signed by the tunnel's key, and in the last presence. The lane goes
    on."""
    client, other = await node.attach(), await node.attach()
    claim = client.claim(key, node="fra-2" if kind == "another node's" else "relay-1")
    if kind == "another session's":
        claim = other.claim(key)
    elif kind == "forged":
        claim = tampered(claim)
    if kind != "not presented":
        client.show(client.present("relay-1", claim))
    if kind == "malformed":
        object.__setattr__(claim, "encoded", b"short")
    client.say_bind(claim)
    assert (await client.refused()).code == FAILURE_CODE_CLAIM
    assert node.tunnels.live(label_of(key)) is None
    assert not client.lane.closed
    await client.bind(new_key())


async def test_a_claim_is_taken_from_its_own_session_alone(node: NodeSessions, key: SigningKey) -> None:
    """Another client, to whom somebody has given the claim and its presence, can do nothing with either."""
    owner, thief = await node.attach(), await node.attach(node.grant("t2"))
    claim, presence = owner.claim(key), owner.present()
    thief.show(thief.present("relay-1", claim))
    thief.say_bind(claim)
    assert (await thief.refused()).code == FAILURE_CODE_CLAIM
    thief.show(presence)
    assert thief.lane.failed is not None
    assert thief.lane.failed.code == FAILURE_CODE_PROTOCOL


async def test_a_forged_presence_ends_the_lane(node: NodeSessions, key: SigningKey) -> None:
    """Nothing is bound by it, and nobody hears of it."""
    client = await node.attach()
    claim, presence = client.claim(key), client.present()
    forged = read_presence(presence.encoded[:-1] + bytes([presence.encoded[-1] ^ 1]))
    client.show(forged)
    client.say_bind(claim)
    await until(lambda: client.lane.closed)
    assert client.lane.failed is not None
    assert client.lane.failed.code == FAILURE_CODE_PROTOCOL
    assert node.tunnels.live(label_of(key)) is None
    assert node.announced.presences == []


@pytest.mark.parametrize("late", [-901.0, 1321.0])
async def test_a_presence_of_another_time_is_refused_with_time(
    node: NodeSessions, key: SigningKey, late: float
) -> None:
    """The client asks a registry for the time and signs again; a presence from the future is in nobody's way then."""
    client = await node.attach()
    claim = client.claim(key)
    client.show(client.present(late=late))
    client.say_bind(claim)
    assert (await client.refused()).code == FAILURE_CODE_TIME
    assert node.announced.presences == []
    client.show()
    client.say_bind(claim)
    await client.bound()


async def test_an_epoch_that_is_too_far_ahead_is_refused_with_time(node: NodeSessions, key: SigningKey) -> None:
    """Nobody would believe it."""
    client = await node.attach()
    client.ask(key, node.next_ms() + 1_801_000)
    assert (await client.refused()).code == FAILURE_CODE_TIME
    await client.bind(key, node.next_ms() + 1_700_000)


async def test_an_older_presence_is_ignored(node: NodeSessions, key: SigningKey) -> None:
    """It may have been overtaken: the latest one counts."""
    client = await node.attach()
    before = client.present("relay-1", client.claim(new_key()))
    await client.bind(key)
    client.show(before)
    assert not client.lane.closed
    await client.bind(new_key())
    assert before not in node.announced.presences


async def test_others_hear_of_a_presence_before_they_hear_of_its_tunnels(node: NodeSessions) -> None:
    """One presence for any number of BINDs; and of each renewed one."""
    client = await node.attach()
    claims = [client.claim(new_key()) for _ in range(3)]
    presence = client.present()
    client.show(presence)
    for claim in claims:
        client.say_bind(claim)
    await until(lambda: len(client.lane.said) == 3)
    assert node.announced.presences == [presence]
    renewed = client.present()
    client.show(renewed)
    await until(lambda: len(node.announced.presences) == 2)
    assert node.announced.presences[-1] == renewed


async def test_a_newer_grant_is_passed_on(node: NodeSessions, key: SigningKey) -> None:
    """Of the same session; another one, or a forged one, changes nothing."""
    client = await node.attach()
    await client.bind(key)
    tunnel = node.tunnels.live(label_of(key))
    assert tunnel is not None
    newer = node.grant(signer=client.signer, jti="2")
    for grant in ("nonsense", node.grant("t2", signer=client.signer), node.grant(), newer[:-4] + "AAAA", newer):
        client.show(grant=grant)
    await until(lambda: tunnel.holder.grant_token == newer)
    assert not client.lane.closed


async def test_a_token_that_signs_too_much_is_told_to_wait(make_node: MakeNode, key: SigningKey) -> None:
    """OVERLOADED, with the time from which on it may ask again; another token binds meanwhile."""
    node = make_node(signature_check_burst=6, signature_checks_per_second=1)
    hostile, honest = await node.attach(node.grant("hostile")), await node.attach(node.grant("honest"))
    claims = [hostile.claim(new_key()), *(tampered(hostile.claim(new_key())) for _ in range(5))]
    hostile.show(hostile.present("relay-1", *claims))
    for claim in claims:
        hostile.say_bind(claim)
    await until(lambda: len(hostile.lane.said) == 6)
    codes = Counter(said.failure.code for said in hostile.lane.said if isinstance(said, BindRefused))
    assert codes == {FAILURE_CODE_CLAIM: 4, FAILURE_CODE_OVERLOADED: 1}
    await honest.bind(key)
    hostile.lane.said.clear()
    hostile.ask(new_key())
    refused = await hostile.refused()
    assert refused.code == FAILURE_CODE_OVERLOADED
    assert refused.retry_after_ms == 2_000, "for its claim, and for the presence that could not be checked either"
    assert node.checks.unchecked["token"]


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


async def test_a_client_that_leaves_says_where_its_tunnels_are(node: NodeSessions, key: SigningKey) -> None:
    """Of tunnels that this very session holds; of others nothing is heard, and no frame is an error for that. What it
    says is checked: the binding here is over then, and visitors are sent there."""
    client, other = await node.attach(), await node.attach()
    await client.bind(key)
    claim = client.claim(key, 2, node="fra-2")
    moved = Moved(label=claim.label, claim=claim.encoded, presence=client.present("fra-2").encoded)
    other.send(FrameType.MOVED, moved)
    client.send(FrameType.MOVED, Moved(label=label_of(new_key()), claim=b"", presence=b""))
    assert other.lane.failed is None
    assert client.lane.failed is None
    assert node.tunnels.live(claim.label) is not None
    client.send(FrameType.MOVED, moved)
    await until(lambda: node.tunnels.live(claim.label) is None)
    route = node.routes.placed(claim.label)
    assert route is not None
    assert (route.node, route.epoch) == ("fra-2", 2)
    unbound = client.lane.take(Unbound)
    assert (unbound.failure.code, unbound.claim) == (FAILURE_CODE_EPOCH, claim.encoded)


async def test_moved_is_believed_of_what_is_signed_alone(node: NodeSessions, key: SigningKey) -> None:
    """A forged claim moves nothing; one without its form ends the lane."""
    client = await node.attach()
    await client.bind(key)
    claim = tampered(client.claim(key, 2, node="fra-2"))
    presence = client.present("fra-2", claim).encoded
    client.send(FrameType.MOVED, Moved(label=claim.label, claim=claim.encoded, presence=presence))
    await client.bind(new_key())
    assert node.tunnels.live(claim.label) is not None
    client.send(FrameType.MOVED, Moved(label=claim.label, claim=b"short", presence=presence))
    assert client.lane.failed is not None
    assert client.lane.failed.code == FAILURE_CODE_PROTOCOL


async def test_a_client_says_where_a_tunnel_is_that_was_taken_from_it(node: NodeSessions, key: SigningKey) -> None:
    """A registry may know of the next epoch, and tell nobody where it is."""
    client = await node.attach()
    await client.bind(key)
    node.table.evict(label_of(key), 1, Failure(code=FAILURE_CODE_EPOCH))
    claim = client.claim(key, 2, node="fra-2")
    moved = Moved(label=claim.label, claim=claim.encoded, presence=client.present("fra-2").encoded)
    client.send(FrameType.MOVED, moved)
    await until(lambda: node.routes.placed(claim.label) is not None)
