"""portway.engine.link: what nodes and registries refuse, whose word ends a tunnel, and when a session key is replaced.

A fake search says how each attempt ends.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from portway.engine.failures import FIRST_PAUSE, Failure
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.search import Refused
from portway.engine.session import BindRefused, End
from portway.errors import AuthError, Error, QuotaError, UnreachableError
from portway_proto.v1.lane_pb2 import FailureCode
from portway_testkit.fakes.fake_link import NOWHERE, FakeSession, World
from portway_testkit.signers import CLUSTER_ID, NOW_MS

MakeTunnel = Callable[..., HeldTunnel]

REVOKED = Failure(FailureCode.FAILURE_CODE_REVOKED, "revoked")
GRANT = Failure(FailureCode.FAILURE_CODE_GRANT, "of another cluster")
QUOTA = Failure(FailureCode.FAILURE_CODE_QUOTA, "no more")
TIME = Failure(FailureCode.FAILURE_CODE_TIME, "not of now")


def reason_of(held: HeldTunnel) -> Error:
    assert held.lost is not None
    return held.lost.reason


@pytest.mark.parametrize("error", [Refused(REVOKED), AuthError("revoked")])
async def test_what_no_attempt_can_mend_ends_every_tunnel(
    world: World, make_tunnel: MakeTunnel, error: Exception
) -> None:
    """Refused by a node for a reason that all would give, or by a registry: lost, and nobody is asked again."""
    lost: list[HeldTunnel] = []
    session = await world.opened(make_tunnel(lost=lost))
    session.end()
    world.then(NOWHERE, error)
    await world.given_up()
    assert [type(reason_of(one)) for one in lost] == [AuthError]
    assert len(world.search.tried) == 2
    assert not world.link.attached


async def test_a_revocation_that_ends_the_session_is_one_node_s_word(world: World, make_tunnel: MakeTunnel) -> None:
    """The search is told, and avoids the node; what it finds out decides."""
    lost: list[HeldTunnel] = []
    session = await world.opened(make_tunnel(lost=lost))
    session.end(End("revoked", REVOKED))
    second = FakeSession("n2")
    world.then(second)
    await second.bound.wait()
    assert world.search.ended_with == [REVOKED]
    assert world.search.tried[0].avoided == session.node
    assert not lost
    second.end(End("revoked", REVOKED))
    world.then(AuthError("unknown token"))
    await world.given_up()
    assert [type(reason_of(one)) for one in lost] == [AuthError]


async def test_a_refusal_of_one_node_is_tried_at_another(world: World, make_tunnel: MakeTunnel) -> None:
    """A registry confirms nothing, so the session is left for another node, with every tunnel, before it is lost."""
    kept, new = make_tunnel(), make_tunnel(8001)
    session = await world.opened(kept)
    session.refusals = [BindRefused(replace(QUOTA, retry_after=30.0))]  # which is not waited for
    second = FakeSession("n2")
    world.then(second)
    await world.link.bind(new)
    await session.left.wait()
    assert {bind.label for bind in second.binds} == {kept.label, new.label}
    assert world.directory.asked == 2, "a registry may hear of the other tunnels a moment later"
    assert [claim.label for claim, _ in session.moves] == [kept.label]
    assert max(world.pauses) <= FIRST_PAUSE
    assert world.search.tried[0].avoided == session.node


async def test_a_refusal_of_two_nodes_is_final(world: World, make_tunnel: MakeTunnel) -> None:
    """And so is one that the registry gives, too; the other tunnels go on."""
    kept = make_tunnel()
    session = await world.opened(kept)
    second = FakeSession("n2")
    session.refusals, second.refusals = [BindRefused(QUOTA)], [BindRefused(QUOTA), BindRefused(QUOTA)]
    world.then(second)
    with pytest.raises(QuotaError, match="no more"):
        await world.link.bind(make_tunnel(8001))
    world.directory.errors = [QuotaError("no more")]
    second.refusals = [BindRefused(QUOTA)]
    with pytest.raises(QuotaError, match="no more"):
        await world.link.bind(make_tunnel(8002))
    assert second.up


async def test_a_refusal_of_the_only_node_is_final(world: World, make_tunnel: MakeTunnel) -> None:
    """A registry knows no other, or none answers and none is known; what is open stays."""
    session = await world.opened(make_tunnel())
    world.directory.nodes = [session.node]
    for error in ([], [UnreachableError("down")]):
        world.directory.errors = list(error)
        session.refusals = [BindRefused(QUOTA)]
        with pytest.raises(QuotaError):
            await world.link.bind(make_tunnel(8001))
    assert session.up


async def test_a_session_key_with_a_wrong_time_is_replaced(world: World, make_tunnel: MakeTunnel) -> None:
    """A registry with a wrong clock had said the time: presences cannot go back, so another key begins anew, and its
    first session is not resumed."""
    world.signer.learn(CLUSTER_ID, 4_000_000_000_000)
    session = FakeSession()
    session.refusals = [BindRefused(TIME)]
    second = FakeSession("n2")
    world.then(session, second)
    before = world.signer.session_key
    world.directory.on_locate = lambda: world.signer.learn(CLUSTER_ID, NOW_MS)
    held = make_tunnel()
    await world.link.bind(held)
    assert world.signer.session_key != before
    assert session.binds[0].claim.epoch >= 4_000_000_000_000
    [bind] = second.binds
    assert NOW_MS <= bind.claim.epoch < NOW_MS + 600_000
    assert bind.claim.session_key == world.signer.session_key
    assert second.presences[-1].is_fresh(NOW_MS)
    assert [tried.resume for tried in world.search.tried] == [None, None]


async def test_the_session_of_a_replaced_key_is_sent_nothing_more(world: World, make_tunnel: MakeTunnel) -> None:
    """Another tunnel that waits for the same answer goes to the next session, too: the node would take what another key
    has signed for a forgery."""
    world.signer.learn(CLUSTER_ID, 4_000_000_000_000)
    session, second = FakeSession(), FakeSession("n2")
    session.refusals = [BindRefused(TIME), BindRefused(TIME)]
    world.then(session, second)
    before = world.signer.session_key
    asked = []

    def on_locate() -> None:
        asked.append((world.signer.session_key == before, session.up))
        world.signer.learn(CLUSTER_ID, NOW_MS)

    world.directory.on_locate = on_locate
    one, other = make_tunnel(), make_tunnel(8001)
    await asyncio.gather(world.link.bind(one), world.link.bind(other))
    assert asked == [(True, True), (False, False)]
    assert [bind.claim.session_key for bind in session.binds] == [before, before]
    assert {bind.label for bind in second.binds} == {one.label, other.label}
    assert {bind.claim.session_key for bind in second.binds} == {world.signer.session_key}


async def test_a_grant_that_is_not_taken_any_more_is_no_end(world: World, make_tunnel: MakeTunnel) -> None:
    """A fresh one may be: the session is attached again."""
    lost: list[HeldTunnel] = []
    session = await world.opened(make_tunnel(lost=lost))
    session.end(End(GRANT.text, GRANT))
    second = FakeSession("n2")
    world.then(second)
    await second.bound.wait()
    assert not lost
