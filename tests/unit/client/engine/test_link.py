"""portway.engine.link: when a session is attached, attached again and resumed, and when nothing further is tried.

A fake search says how each attempt ends.
"""

import asyncio
import logging
from collections.abc import Callable

import pytest
from portway.engine.failures import Failure
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.search import Resumption
from portway.engine.session import End
from portway.errors import Error, QuotaError, UnreachableError
from portway.tunnel import Before, Tunnel
from portway_proto.v1.lane_pb2 import FailureCode
from portway_proto.wire.statements import SigningKey
from portway_testkit.fakes.fake_link import NOWHERE, RESET, RESUME_SECONDS, FakeSession, World

MakeTunnel = Callable[..., HeldTunnel]

UNKNOWN = Failure(FailureCode.FAILURE_CODE_SESSION, "never heard of it")


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
