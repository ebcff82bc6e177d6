"""portway.engine.link: a node is left for another one, because it asks for it or because a nearer one was found."""

from collections.abc import Callable

import pytest
from portway.engine.failures import Failure
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.session import BindRefused, End, SessionOver
from portway_proto.v1.lane_pb2 import FailureCode
from portway_testkit.fakes.fake_link import NOWHERE, FakeSession, World
from portway_testkit.links.carrier_link import until

MakeTunnel = Callable[..., HeldTunnel]

SHUTDOWN = Failure(FailureCode.FAILURE_CODE_SHUTDOWN, "stopping")


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
