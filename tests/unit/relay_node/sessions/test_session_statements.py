"""Which claims and presences of a client a node takes, and what it says to others."""

from collections import Counter
from collections.abc import Callable

import pytest
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_CLAIM,
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_PROTOCOL,
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


async def test_moved_with_options_that_cannot_be_read_moves_nothing(node: NodeSessions, key: SigningKey) -> None:
    """Signed by the tunnel's key, and so genuine: the node neither follows it nor fails over it."""
    client = await node.attach()
    await client.bind(key)
    claim = client.claim(key, 2, node="fra-2", unreadable=True)
    moved = Moved(label=claim.label, claim=claim.encoded, presence=client.present("fra-2", claim).encoded)
    client.send(FrameType.MOVED, moved)
    await client.bind(new_key())
    assert node.tunnels.live(claim.label) is not None
    assert node.routes.placed(claim.label) is None


async def test_a_client_says_where_a_tunnel_is_that_was_taken_from_it(node: NodeSessions, key: SigningKey) -> None:
    """A registry may know of the next epoch, and tell nobody where it is."""
    client = await node.attach()
    await client.bind(key)
    node.table.evict(label_of(key), 1, Failure(code=FAILURE_CODE_EPOCH))
    claim = client.claim(key, 2, node="fra-2")
    moved = Moved(label=claim.label, claim=claim.encoded, presence=client.present("fra-2").encoded)
    client.send(FrameType.MOVED, moved)
    await until(lambda: node.routes.placed(claim.label) is not None)
