"""portway.engine.link: how soon a lost session is attached again.

A fake search says how each attempt ends; time passes only where the link waits.
"""

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import pytest
from portway.engine.failures import FIRST_PAUSE, LONGEST_PAUSE
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.link import SOUND_AFTER
from portway_runtime import backoff
from portway_testkit.fakes.fake_link import NOWHERE, FakeSession, World

MakeTunnel = Callable[..., HeldTunnel]


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
