"""portway.engine.link: when a lost session is attached again, how soon, and when nothing further is tried.

A fake search says how each attempt ends; time passes only where the link waits.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from portway.engine import link as link_module
from portway.engine.failures import FIRST_PAUSE, LONGEST_PAUSE, Failure
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.link import SOUND_AFTER
from portway.engine.search import Refused, Resumption
from portway.engine.session import BindRefused, End, SessionOver
from portway.errors import AuthError, Error, QuotaError, UnreachableError
from portway.tunnel import Before, Tunnel
from portway_proto.v1.lane_pb2 import FailureCode
from portway_proto.wire.statements import SigningKey
from portway_runtime import backoff
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.fake_link import (
    RESET,
    RESUME_SECONDS,
    FakeLanes,
    FakeReturns,
    FakeSearch,
    FakeSession,
    World,
)
from portway_testkit.links.carrier_link import until
from portway_testkit.signers import CLUSTER_ID, NOW_MS

MakeTunnel = Callable[..., HeldTunnel]

NOWHERE = UnreachableError("no relay node could be reached")
REVOKED = Failure(FailureCode.FAILURE_CODE_REVOKED, "revoked")
GRANT = Failure(FailureCode.FAILURE_CODE_GRANT, "of another cluster")
UNKNOWN = Failure(FailureCode.FAILURE_CODE_SESSION, "never heard of it")
QUOTA = Failure(FailureCode.FAILURE_CODE_QUOTA, "no more")
TIME = Failure(FailureCode.FAILURE_CODE_TIME, "not of now")
SHUTDOWN = Failure(FailureCode.FAILURE_CODE_SHUTDOWN, "stopping")


def reason_of(held: HeldTunnel) -> Error:
    assert held.lost is not None
    return held.lost.reason


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    search = FakeSearch(ManualClock())
    monkeypatch.setattr(link_module, "Search", lambda *_: search)
    returns = FakeReturns()
    monkeypatch.setattr(link_module, "Returns", lambda *_: returns)
    monkeypatch.setattr(link_module, "DataLanes", FakeLanes)
    monkeypatch.setattr(backoff, "random", random.Random(7))
    world = World(search, returns)
    yield world
    await world.link.close()
    await world.tasks.close()


async def test_a_session_that_lasted_is_missed_at_once(world: World, make_tunnel: MakeTunnel) -> None:
    """The first attempt after its loss waits a tenth of a second at the most; the tunnel goes on under its label."""
    held = make_tunnel()
    session = await world.opened(held)
    world.clock.now += SOUND_AFTER
    session.end()
    second = FakeSession("n2")
    world.then(second)
    await second.bound.wait()
    assert len(world.pauses) == 1
    assert 0 <= world.pauses[0] <= FIRST_PAUSE
    assert [bind.label for bind in second.binds] == [held.label]
    assert second.binds[0].claim.epoch == session.binds[0].claim.epoch + 1


async def test_pauses_double_up_to_a_limit(world: World, make_tunnel: MakeTunnel) -> None:
    """However long no node can be reached, it goes on: each pause is half to the whole of one that doubles."""
    session = await world.opened(make_tunnel())
    world.clock.now += SOUND_AFTER
    session.end()
    world.then(*[NOWHERE] * 12)
    await world.through()
    assert world.pauses[0] <= FIRST_PAUSE
    expected = FIRST_PAUSE
    for pause in world.pauses[1:]:
        assert expected / 2 <= pause <= expected
        expected = min(expected * 2, LONGEST_PAUSE)
    assert len(world.pauses) == 13
    assert [later.at - earlier.at for earlier, later in pairwise(world.search.tried)] == pytest.approx(world.pauses[1:])


async def test_a_session_lost_as_soon_as_it_is_there_is_not_missed_at_once(
    world: World, make_tunnel: MakeTunnel
) -> None:
    """Sessions that do not last are followed by longer and longer pauses; one that lasts makes them short again."""
    session = await world.opened(make_tunnel())
    brief = [FakeSession(f"b{number}") for number in range(5)]
    world.then(*brief)
    session.end()
    for one in brief:
        await one.bound.wait()
        one.end()
    await world.through()
    assert all(pause >= FIRST_PAUSE / 2 for pause in world.pauses)
    assert world.pauses[-1] > 8 * FIRST_PAUSE


async def test_one_that_lasts_makes_pauses_short_again(world: World, make_tunnel: MakeTunnel) -> None:
    """What happened before it is forgotten."""
    session = await world.opened(make_tunnel())
    world.clock.now += SOUND_AFTER
    lasting = FakeSession("n2")
    world.then(*[NOWHERE] * 6, lasting)
    session.end()
    await lasting.bound.wait()
    assert world.pauses[-1] > FIRST_PAUSE
    world.clock.now += SOUND_AFTER
    lasting.end()
    await world.through()
    assert world.pauses[-1] <= FIRST_PAUSE


@pytest.mark.parametrize(("share", "first", "second"), [(0.0, 0.0, 0.05), (1.0, 0.1, 0.1)])
async def test_chance_keeps_clients_of_one_node_apart(
    world: World, make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch, share: float, first: float, second: float
) -> None:
    """All lose it in one moment: the first attempts are a tenth of a second apart at the most, further ones by half of
    each pause."""
    monkeypatch.setattr(backoff, "random", SimpleNamespace(uniform=lambda low, high: low + share * (high - low)))
    session = await world.opened(make_tunnel())
    world.clock.now += SOUND_AFTER
    session.end()
    world.then(NOWHERE, NOWHERE)
    await world.through()
    assert world.pauses == pytest.approx([first, second, 2 * second])


async def test_a_node_that_names_a_moment_is_waited_for(world: World, make_tunnel: MakeTunnel) -> None:
    """While all known nodes ask for more time than the pause, that time is what is waited."""
    session = await world.opened(make_tunnel())
    session.end()
    world.search.wait_before_dialling = 12.0
    world.then(NOWHERE, NOWHERE)
    await world.through()
    assert world.pauses == [12.0] * 3


async def test_the_first_attachment_is_tried_until_its_caller_gives_up(world: World, make_tunnel: MakeTunnel) -> None:
    """Somebody waits for it and has a time limit; then nothing goes on. What no attempt can mend is raised at once."""
    world.then(NOWHERE, FakeSession())
    held = make_tunnel()
    await world.link.bind(held)
    assert len(world.search.tried) == 2
    world.link.release(held)
    world.link._stop_keeping()
    world.then(NOWHERE)
    opening = world.tasks.spawn(world.link.bind(make_tunnel(8001)), name="open")
    await world.through()
    assert world.link.failure is NOWHERE
    opening.cancel()
    await asyncio.wait({opening})
    assert world.link._keeper is None
    world.then(UnreachableError("not trusted", lasting=True))
    with pytest.raises(UnreachableError, match="not trusted"):
        await world.link.bind(make_tunnel(8002))


async def test_a_tunnel_that_comes_back_has_its_place(world: World, make_tunnel: MakeTunnel) -> None:
    """It was open in an engine that has ended: registries may still count it, and are asked for no further place, also
    for one that is opened beside it."""
    world.then(NOWHERE, FakeSession())
    before = Before(SigningKey().private, Tunnel("a.test", 443))
    await asyncio.gather(world.link.bind(make_tunnel(before=before)), world.link.bind(make_tunnel(8001)))
    assert world.search.new_tunnels == [0, 0]


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


async def test_a_resumed_session_is_told_what_it_holds(world: World, make_tunnel: MakeTunnel) -> None:
    """The presence that was sent last may have been lost, or have grown old; no claim is signed."""
    session = await world.opened(make_tunnel())
    session.end()
    second = FakeSession("n1", resumes=session)
    world.then(second)
    await second.presented.wait()
    assert second.presences[-1].ids == session.presences[-1].ids
    assert second.presences[-1].time_ms > session.presences[-1].time_ms
    assert second.binds == []


async def test_room_is_asked_for_once(world: World, make_tunnel: MakeTunnel) -> None:
    """A full quota is told before the first tunnel is opened; one that is open is attached again within it."""
    session = await world.opened(make_tunnel())
    session.end()
    world.then(NOWHERE)
    await world.through()
    assert world.search.new_tunnels == [1, 0, 0]


@pytest.mark.parametrize("error", [NOWHERE, QuotaError("no more now"), Error("whatever it is")])
async def test_what_may_pass_is_tried_again(world: World, make_tunnel: MakeTunnel, error: Exception) -> None:
    """Neither nodes that are away nor a registry that has enough for now costs a tunnel; `trouble` says what it is."""
    lost: list[HeldTunnel] = []
    session = await world.opened(make_tunnel(lost=lost))
    session.end()
    world.then(error, error)
    await world.through()
    assert len(world.search.tried) == 3
    assert not lost
    assert world.link.trouble == str(error)


async def test_a_grant_that_is_not_taken_any_more_is_no_end(world: World, make_tunnel: MakeTunnel) -> None:
    """A fresh one may be: the session is attached again."""
    lost: list[HeldTunnel] = []
    session = await world.opened(make_tunnel(lost=lost))
    session.end(End(GRANT.text, GRANT))
    second = FakeSession("n2")
    world.then(second)
    await second.bound.wait()
    assert not lost


@pytest.mark.parametrize(
    ("end", "away", "resumed"),
    [
        (RESET, 0.0, True),
        (End("silent", silent=True), 0.0, True),
        (RESET, RESUME_SECONDS, False),
        (End(UNKNOWN.text, UNKNOWN), 0.0, False),
    ],
)
async def test_a_session_is_resumed_while_its_node_remembers_it(
    world: World, make_tunnel: MakeTunnel, end: End, away: float, resumed: bool
) -> None:
    """For as long as the node said at WELCOME, and not when it says that it knows of none."""
    session = await world.opened(make_tunnel())
    world.search.wait_before_dialling = away
    session.end(end)
    await world.through()
    (tried,) = world.search.tried
    assert tried.resume == (Resumption("n1", session.credentials, end.silent) if resumed else None)
    assert tried.home == session.node


async def test_a_node_that_asks_to_be_left_is_left_after_the_next_has_the_tunnels(
    world: World, make_tunnel: MakeTunnel
) -> None:
    """And has been told where they are. It is avoided at first; when nobody else is there it will do."""
    session = await world.opened(make_tunnel())
    second, left_before = FakeSession("n2"), list[bool]()
    session.end(End(SHUTDOWN.text, SHUTDOWN, leaving=True))
    world.then(NOWHERE, second)
    second.before_bound = lambda: left_before.append(session.left.is_set())
    await session.left.wait()
    [bind] = second.binds
    assert left_before == [False]
    assert session.moves == [(bind.claim, second.presences[-1])]
    assert bind.claim.node == "n2"
    assert second.moves == []
    assert [(one.avoided, one.resume) for one in world.search.tried] == [(session.node, None), (None, None)]


async def test_nobody_attaches_again_for_tunnels_that_are_closed(world: World, make_tunnel: MakeTunnel) -> None:
    """The last tunnel was closed before the session was lost: that was the end of it."""
    held = make_tunnel()
    session = await world.opened(held)
    world.link.release(held)
    session.end()
    await world.given_up()
    assert world.search.tried == []
    assert world.link._lanes.retired == 1  # type: ignore[attr-defined]


async def test_closing_while_nothing_is_reached_ends_the_attempts(world: World, make_tunnel: MakeTunnel) -> None:
    """A tunnel that is closed meanwhile is the last reason to try."""
    held = make_tunnel()
    session = await world.opened(held)
    session.end()
    world.then(NOWHERE)
    await world.through()
    tried = len(world.search.tried)
    world.link.release(held)
    assert world.link._keeper is None
    await asyncio.sleep(0)
    assert len(world.search.tried) == tried


async def test_the_same_reason_is_told_once(
    world: World, make_tunnel: MakeTunnel, caplog: pytest.LogCaptureFixture
) -> None:
    """Hours without a node are not hours of lines in the program's log."""
    session = await world.opened(make_tunnel())
    session.end()
    caplog.set_level(logging.WARNING, "portway.engine.link")
    world.then(*[NOWHERE] * 5, UnreachableError("another reason"))
    await world.through()
    told = [record.getMessage() for record in caplog.records if "not attached yet" in record.getMessage()]
    assert told == [f"not attached yet: {NOWHERE}", "not attached yet: another reason"]


async def test_a_nearer_node_gets_the_tunnels_before_the_old_one_is_left(world: World, make_tunnel: MakeTunnel) -> None:
    """At once and without a search; the old node is told where they are. From there it is looked for nearer ones."""
    held = make_tunnel()
    session = await world.opened(held)
    near, left_before = FakeSession("near"), list[bool]()
    near.before_bound = lambda: left_before.append(session.left.is_set())
    world.returns.find(near)
    await session.left.wait()
    assert left_before == [False]
    assert session.moves == [(bind.claim, near.presences[-1]) for bind in near.binds]
    assert [bind.claim.epoch for bind in near.binds] == [session.binds[0].claim.epoch + 1]
    assert world.pauses == []
    assert world.search.tried == []
    await until(lambda: world.returns.looking == ["near"])
    assert world.link.attached


async def test_a_nearer_node_that_refuses_a_tunnel_gets_none(world: World, make_tunnel: MakeTunnel) -> None:
    """They are all bound again elsewhere, most likely at the node before, and both serve until then."""
    kept, refused = make_tunnel(), make_tunnel(1)
    session = await world.opened(kept)
    await world.link.bind(refused)
    near, again = FakeSession("near"), FakeSession("n1")
    near.refusals.append(BindRefused(Failure(FailureCode.FAILURE_CODE_PORTS, "no port")))
    serve = list[bool]()
    again.before_bound = lambda: serve.append(session.left.is_set() or near.left.is_set())
    world.then(again)
    world.returns.find(near)
    await near.left.wait()
    assert {bind.label for bind in again.binds} == {kept.label, refused.label}
    assert serve == [False, False]
    assert session.left.is_set()
    avoided = world.search.tried[0].avoided
    assert avoided is not None
    assert avoided.name == "near"
    assert refused.lost is None


async def test_a_nearer_node_that_dies_at_once_costs_one_search(world: World, make_tunnel: MakeTunnel) -> None:
    """The session before serves until another has the tunnels."""
    session = await world.opened(make_tunnel())
    near, again = FakeSession("near"), FakeSession("n2")
    near.refusals.append(SessionOver("gone"))
    near.before_bound = near.end
    left_before = list[bool]()
    again.before_bound = lambda: left_before.append(session.left.is_set())
    world.then(again)
    world.returns.find(near)
    await session.left.wait()
    assert left_before == [False]
    assert session.moves[-1][0] == again.binds[0].claim


async def test_a_nearer_node_is_of_no_use_when_the_tunnels_are_closed(
    world: World, make_tunnel: MakeTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same moment: both sessions are left."""
    held = make_tunnel()
    session = await world.opened(held)
    near = FakeSession("near")

    def leave_for_another(reason: str) -> None:
        world.link.release(held)
        session.end(End(reason, leaving=True))

    monkeypatch.setattr(session, "leave_for_another", leave_for_another)
    world.returns.find(near)
    await near.left.wait()
    await session.left.wait()
    assert near.binds == []
    await until(lambda: world.returns.looking == [])
