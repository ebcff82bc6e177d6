"""Finding a label that its client has closed, or said to be elsewhere: who is asked then, and who waits."""

import asyncio
from typing import Any

import pytest
from portway_relay.routing import lookup as lookup_module
from portway_relay.routing.senders import NODE, TOKEN, Sender
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.lookup_peers import LABEL, Around, Held
from portway_testkit.links.carrier_link import until


@pytest.mark.parametrize("region", ["fra", "iad"])
async def test_where_a_client_said_it_went_is_not_asked_for(around: Around, region: str) -> None:
    """Whatever region the name is of: who said so held the label. A node that does not answer is not waited for."""
    around.moved_to("a")
    found: Any = await around.lookup.find(LABEL, region, "192.0.2.1")
    assert (found.node, found.epoch) == ("a", 2)
    assert around.lookup.known(LABEL) is found
    assert await around.elsewhere(Held(around), denied=True) == ("a", 2)
    assert around.asked == []
    around.down.add("a")
    around.registered("b", 3)
    assert around.lookup.known(LABEL) is None
    assert await around.find() == ("b", 3)


async def test_a_client_that_said_wrong_is_asked_for(around: Around) -> None:
    """The node that it named has not got it, and somebody else has."""
    around.moved_to("a")
    around.registered("b", 3)
    assert await around.elsewhere(await around.lookup.find(LABEL, "fra", "192.0.2.1")) == ("b", 3)
    assert around.asked == ["registry"]


async def test_who_told_of_it_is_counted(around: Around) -> None:
    """A hint whose node was away counts as the client's when it is back."""
    around.moved_to("a")
    around.down.add("a")
    around.answer.clear()
    finding = asyncio.ensure_future(around.find())
    await until(lambda: "registry" in around.asked)
    around.down.clear()
    around.answer.set()
    assert await finding == ("a", 2)
    assert around.lookup.answers["client", "found"] == 1


async def test_a_tunnel_that_its_client_closed_is_not_waited_for(around: Around) -> None:
    """It is asked for once, like a name that never was; and counts as a guess, like one."""
    await around.knows("a")
    around.routes.released(Sender(NODE, "a"), LABEL, 1, closed=True)
    assert await around.find() is None
    assert around.asked == ["registry", "region fra"]
    assert around.routes.is_unknown(LABEL)
    assert await around.find() is None
    assert around.asked == ["registry", "region fra"]


async def test_who_held_it_last_is_asked_whether_it_was_closed(around: Around) -> None:
    """Wherever that node is: nobody waits for what it says is over."""
    await around.knows("b")
    around.routes.released(Sender(NODE, "b"), LABEL, 1, closed=False)
    around.closed["b"] = 1
    assert await around.find() is None
    assert around.asked == ["registry", "region fra"]
    assert around.asked_also == ["b"]


async def test_a_visitor_that_was_sent_to_a_closed_tunnel_is_not_kept(around: Around) -> None:
    """The home node refused it, and says why when it is asked."""
    before = await around.knows("a")
    around.closed["a"] = 1
    assert await around.elsewhere(before) is None
    assert around.asked == ["registry", "region fra"]


async def test_others_cannot_say_that_a_tunnel_was_closed(around: Around) -> None:
    """Only who held it last, with the epoch that it held: else the tunnel is waited for."""
    await around.knows("a", 2)
    around.routes.released(Sender(NODE, "a"), LABEL, 2, closed=False)
    around.closed = {"b": 9, "a": 1}
    finding = asyncio.ensure_future(around.find())
    await until(lambda: around.asked.count("registry") == 2)
    around.registered("c", 3)
    assert await finding == ("c", 3)


async def test_a_tunnel_that_has_been_gone_for_long_is_not_waited_for(around: Around, clock: ManualClock) -> None:
    """Its client would be back by now: its name is like one that never was."""
    await around.knows("a")
    around.routes.released(Sender(NODE, "a"), LABEL, 1, closed=False)
    assert around.routes.is_moving(LABEL)
    clock.now += 61
    assert await around.find() is None
    assert around.asked == ["registry", "region fra"]


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_a_registry_whose_memory_is_behind_is_asked_by_its_store(around: Around, how: str) -> None:
    """What it names is refuted by the node itself, or does not answer. The store knows the next home, in whatever
    region."""
    around.registered("a")
    around.store[LABEL] = around.made("b", 2)
    if how == "silent":
        around.down.add("a")
        assert await around.find() == ("b", 2)
    else:
        assert await around.find() == ("a", 1)
        around.asked.clear()
        assert await around.elsewhere(around.routes.placed(LABEL)) == ("b", 2)
    assert (around.asked[0], around.asked[-1]) == ("registry", "registry's store")


@pytest.fixture
def few_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_module, "_MAX_GUESSES", 2)


@pytest.mark.usefixtures("few_guesses")
async def test_guesses_leave_room_for_tunnels_that_move(around: Around) -> None:
    """While nobody answers, so many names that may be guesses are asked for and no more; one that moves is."""
    around.answer.clear()
    guesses = [asyncio.ensure_future(around.find(f"abcdefghijklmno{letter}")) for letter in "ab"]
    await until(lambda: len(around.lookup) == 2)
    assert await around.find("abcdefghijklmnoc") is None
    assert not around.routes.is_unknown("abcdefghijklmnoc")
    around.routes.released(Sender(TOKEN, "t1"), LABEL, 1, closed=False)
    finding = asyncio.ensure_future(around.find())
    await until(lambda: len(around.lookup) == 3)
    around.registered("a", 2)
    around.answer.set()
    assert await finding == ("a", 2)
    assert await asyncio.gather(*guesses) == [None, None]
