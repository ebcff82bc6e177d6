"""Waiting for the client of a node that is not reached: who is asked, how often, and when the wait is over."""

import asyncio

import pytest
from portway_carrier.values import PoolCounts
from portway_relay.routing.senders import NODE, Sender
from portway_testkit.fakes.lookup_peers import LABEL, Around, Held
from portway_testkit.links.carrier_link import until
from portway_testkit.waiting import PATIENCE


async def test_a_client_is_waited_for_until_it_is_elsewhere(around: Around) -> None:
    """A registry names the silent node for as long as its client takes to notice."""
    before = await around.knows("a")
    around.registered("a")
    waiting = asyncio.ensure_future(around.again(before))
    await until(lambda: around.asked.count("registry") >= 4)
    assert not waiting.done()
    around.registered("b", 2)
    assert await waiting == ("b", 2)


async def test_a_client_that_comes_here_is_found(around: Around) -> None:
    """And one whose new claim a sibling has told of."""
    before = await around.knows("a")
    waiting = asyncio.ensure_future(around.again(before))
    await until(lambda: "registry" in around.asked)
    around.tunnels[LABEL] = Held(around, 2)
    assert await waiting == ("here", 2)
    del around.tunnels[LABEL]
    around.told("b", 2)
    around.asked.clear()
    assert await around.again(before) == ("b", 2)
    assert around.asked == []


@pytest.mark.parametrize("or_there", [False, True])
async def test_lanes_that_lead_there_again_end_the_wait_of_who_has_none(around: Around, or_there: bool) -> None:
    """A visit that is on a lane already is not given another one."""
    before = await around.knows("a")
    within = PATIENCE if or_there else 0.2
    waiting = asyncio.ensure_future(around.again(before, within=within, or_there=or_there))
    await until(lambda: "registry" in around.asked)
    around.pools["a"].counts = PoolCounts(idle=1, busy=0, waiting=0)
    assert await waiting == (("a", 1) if or_there else None)


async def test_who_waits_for_a_label_waits_for_the_same_questions(around: Around) -> None:
    """However many come, and whenever. One that leaves takes them from nobody."""
    before = await around.knows("a")
    waiting = [asyncio.ensure_future(around.again(before)) for _ in range(50)]
    await until(lambda: around.asked.count("registry") >= 3)
    waiting += [asyncio.ensure_future(around.again(before)) for _ in range(50)]
    waiting[0].cancel()
    await until(lambda: around.asked.count("registry") >= 4)
    asked = around.asked.count("registry")
    around.registered("b", 2)
    assert await asyncio.gather(*waiting[1:]) == [("b", 2)] * 99
    assert around.asked.count("registry") == asked + 1
    assert len(around.lookup._searches) == 0


async def test_the_wait_is_bounded(around: Around) -> None:
    """Nobody has heard of another place."""
    before = await around.knows("a")
    assert await around.again(before, within=0.1) is None
    assert len(around.lookup._searches) == 0


async def test_a_node_that_has_long_been_away_is_not_waited_for(
    around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client would be elsewhere by now: visitors of a name that leads nowhere are not kept."""
    monkeypatch.setattr("portway_relay.routing.lookup._PAUSES", (0.0, 0.05))
    before = await around.knows("a")
    around.down.add("a")
    around.away = 61.0
    assert await around.again(before) is None
    around.away = 59.0
    waiting = asyncio.ensure_future(around.again(before))
    await until(lambda: around.asked.count("registry") >= 6)
    around.told("b", 2)
    assert await waiting == ("b", 2)


async def test_a_tunnel_that_is_closed_is_not_waited_for(around: Around) -> None:
    """Its client says so at the node that it is at by now."""
    before = await around.knows("a")
    waiting = asyncio.ensure_future(around.again(before))
    await until(lambda: "registry" in around.asked)
    around.routes.released(Sender(NODE, "a"), LABEL, 1, closed=True)
    assert await waiting is None


async def test_closing_ends_the_wait(around: Around) -> None:
    """Whoever waits is cancelled."""
    before = await around.knows("a")
    waiting = asyncio.ensure_future(around.again(before))
    await until(lambda: "registry" in around.asked)
    await around.lookup.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
