"""A node that has just started: an unknown name may be one that it has not heard of yet."""

import asyncio

import pytest
from portway_relay.routing.first_seconds import FirstSeconds
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.lookup_peers import LABEL, Around, Held
from portway_testkit.links.carrier_link import until


@pytest.fixture
def started(around: Around) -> Around:
    """It listens since now, and knows nothing."""
    around.first_seconds.begin()
    return around


def reach_registry(around: Around) -> None:
    """As the node does when a registry has registered it."""
    around.routes.forget_unknown()
    around.first_seconds.heard()


async def test_a_name_is_found_as_soon_as_a_registry_can_be_asked(started: Around) -> None:
    """Although nobody knew it a moment before: that answer does not count any more."""
    finding = asyncio.ensure_future(started.find())
    await until(lambda: bool(started.asked))
    started.registered("a")
    reach_registry(started)
    assert await finding == ("a", 1)


async def test_a_name_is_found_when_another_node_announces_it(started: Around) -> None:
    """Or a client binds it here: neither needs a further question."""
    finding, here = asyncio.ensure_future(started.find()), asyncio.ensure_future(started.find("b" * 16))
    await until(lambda: started.asked.count("registry") == 2)
    started.told("a")
    started.tunnels["b" * 16] = Held(started)
    assert await finding == ("a", 1)
    assert await here == ("here", 1)


async def test_what_is_known_is_not_waited_for(started: Around) -> None:
    """Nor is anybody asked."""
    started.tunnels[LABEL] = Held(started)
    assert await started.find() == ("here", 1)
    assert started.asked == []


async def test_an_unknown_name_is_asked_for_once_a_second(started: Around, clock: ManualClock) -> None:
    """By however many visitors, who wait until the first seconds are over, and no longer."""
    started.first_seconds.heard()
    waiting = [asyncio.ensure_future(started.find()) for _ in range(50)]
    await until(lambda: started.asked.count("registry") == 1)
    await started.first_seconds.wait(0.2)
    assert started.asked == ["registry", "region fra"]
    clock.now += 1.1
    await until(lambda: started.asked.count("registry") == 2)
    clock.now += 2.0
    assert await asyncio.gather(*waiting) == [None] * 50
    assert await started.find() is None


async def test_a_name_that_may_not_be_asked_for_yet_is_asked_for_later(started: Around, clock: ManualClock) -> None:
    """Visitors come with more names at once than are looked up in a second: none is refused for that."""
    started.registered("a")
    started.first_seconds.heard()
    others = [asyncio.ensure_future(started.find(letter * 16)) for letter in "bcd"]
    await until(lambda: started.asked.count("registry") == 3)
    finding = asyncio.ensure_future(started.find())
    await started.first_seconds.wait(0.2)
    assert not finding.done()
    clock.now += 0.9
    assert await finding == ("a", 1)
    clock.now += 3.0
    assert await asyncio.gather(*others) == [None] * 3


def test_they_last_until_a_registry_was_heard_for_as_long(clock: ManualClock) -> None:
    """The first one that is tried may be silent; without any they end nevertheless."""
    late, never = FirstSeconds(3.0, clock), FirstSeconds(3.0, clock)
    late.begin()
    never.begin()
    clock.now += 6.0
    assert not late.over
    late.heard()
    late.heard()
    clock.now += 2.9
    assert not late.over
    clock.now += 0.1
    assert late.over
    assert not never.over
    clock.now += 3.0
    assert never.over
    never.heard()
    assert never.over


async def test_before_the_beginning_and_without_a_time_nobody_waits(around: Around, clock: ManualClock) -> None:
    """A node that does not listen yet has no visitors."""
    assert await around.find() is None
    none = FirstSeconds(0.0, clock)
    none.begin()
    assert none.over
