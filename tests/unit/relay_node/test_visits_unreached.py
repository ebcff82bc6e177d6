"""Visits that go to another node, of which nothing arrives: what is waited for, for how long, and for how many."""

import asyncio

import pytest
from portway_carrier.values import Outcome
from portway_proto.wire.frames import RefusalReason
from portway_relay import unreached_visits
from portway_runtime.shares import PrefixShares
from portway_testkit.fakes.fake_visits import (
    REQUEST,
    FakeRoute,
    Node,
    settled,
    turned_away,
    visits_node,  # noqa: F401 - the fixture `node`
)
from portway_testkit.links.carrier_link import until


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unreached_visits, "_LOOK_EVERY", 0.001)


async def told(node: Node, place: FakeRoute) -> None:
    """A client is known to be there now: whoever asks, also again, is told."""
    node.places += [place, place]
    node.told.set()
    await settled()


async def test_a_visit_that_is_stuck_goes_where_its_client_went(node: Node) -> None:
    """The same visitor, with the same opening, counted once at a time."""
    route, place = FakeRoute(), FakeRoute()
    visit = node.tls_visit(to=route)
    visit.unreached_for = 1.0
    await until(lambda: bool(node.waits))
    assert node.waits == [(route, 15.0, False)]
    assert not visit.taken_back
    await told(node, place)
    assert visit.taken_back
    await until(lambda: len(node.carrier.visits) == 2)
    again = node.carrier.visits[-1]
    assert (again.stream, again.opening, again.pool) == (visit.stream, visit.opening, place.pool)
    assert (route.visits, place.visits) == (set(), {again})
    again.end(Outcome.DONE)
    assert node.visits.outcomes == {"unreached": 1, "done": 1}
    assert node.over()


async def test_a_visit_that_arrives_is_left_alone(node: Node) -> None:
    """It may be slow from then on: bytes of it have been at the other node."""
    visit = node.tls_visit(to=FakeRoute())
    visit.unreached_for = 0.9
    await until(lambda: visit.looked_at >= 3)
    visit.unreached_for = None
    await until(lambda: not node.visits._unreached)
    visit.unreached_for = 9.0
    looked_at = visit.looked_at
    await asyncio.sleep(0.01)
    assert visit.looked_at == looked_at
    assert node.waits == []
    visit.end(Outcome.DONE)


async def test_a_visit_that_arrives_late_is_not_taken_back(node: Node) -> None:
    """Its client went elsewhere meanwhile, and serves what has reached it."""
    visit = node.tls_visit(to=FakeRoute())
    visit.unreached_for = 1.0
    await until(lambda: bool(node.waits))
    visit.unreached_for = None
    await told(node, FakeRoute())
    assert visit.taken_back
    assert node.visits.running == 1
    visit.end(Outcome.DONE)
    assert node.over()


async def test_a_visit_that_ends_is_waited_for_no_more(node: Node) -> None:
    """Its visitor has left; its place among those that wait is free."""
    visit = node.tls_visit(to=FakeRoute())
    visit.unreached_for = 1.0
    await until(lambda: bool(node.waits))
    assert node.visits._waiting.held == 1
    visit.end(Outcome.VISITOR_LOST)
    await settled()
    assert node.visits._waiting.held == 0
    assert node.over()


@pytest.mark.parametrize("outcome", [Outcome.NO_LANE, Outcome.UNREACHED])
async def test_a_visit_that_comes_back_from_another_node_waits(node: Node, outcome: Outcome) -> None:
    """Until its client is elsewhere; and if nothing of it was sent, until lanes lead there again."""
    route = FakeRoute()
    node.clock.now += 5
    visit = node.tls_visit(to=route)
    node.clock.now += 2
    visit.end(outcome)
    await settled()
    assert node.waits == [(route, 13.0, outcome is Outcome.NO_LANE)]
    assert node.asked == []
    assert node.visits.running == 1
    await told(node, route)
    again = node.carrier.visits[-1]
    assert again is not visit
    assert node.visits._waiting.held == 0
    again.end(Outcome.DONE)
    assert node.over()


async def test_a_visitor_waits_so_long_and_no_longer(node: Node) -> None:
    """However often a lane comes and is lost in between."""
    visit = node.tls_visit(to=FakeRoute())
    node.clock.now += 15
    visit.end(Outcome.NO_LANE)
    (page,) = await turned_away(visit, REQUEST)
    assert page.startswith(b"HTTP/1.1 503 ")
    assert node.waits == []
    assert node.over()


async def test_a_node_that_drops_every_lane_gets_a_visitor_four_times(node: Node) -> None:
    """And no more, in whatever time."""
    route = FakeRoute()
    node.places += [route] * 9
    visit = node.tls_visit(to=route)
    visit.end(Outcome.NO_LANE)
    for count in (2, 3, 4):
        await until(lambda: len(node.carrier.visits) == count)
        node.carrier.visits[-1].end(Outcome.NO_LANE)
    (page,) = await turned_away(visit, REQUEST)
    assert page.startswith(b"HTTP/1.1 503 ")
    assert len(node.carrier.visits) == 4
    assert node.over()


async def test_a_refusal_after_the_wait_is_tried_elsewhere_once(node: Node) -> None:
    """The place where its client was found may have lost it meanwhile."""
    node.places += [FakeRoute(), FakeRoute(), FakeRoute()]
    node.tls_visit(to=FakeRoute()).end(Outcome.NO_LANE)
    await until(lambda: len(node.carrier.visits) == 2)
    node.carrier.visits[-1].end(Outcome.REFUSED, RefusalReason.NOT_HERE)
    await until(lambda: len(node.carrier.visits) == 3)
    last = node.carrier.visits[-1]
    last.end(Outcome.REFUSED, RefusalReason.NOT_HERE)
    assert (await turned_away(last, REQUEST))[0].startswith(b"HTTP/1.1 503 ")
    assert node.over()


@pytest.mark.parametrize("why", ["places", "memory"])
async def test_so_many_wait_and_no_more(node: Node, why: str) -> None:
    """Others are tried elsewhere for a second and a half, as those that were refused; one on a lane stays there."""
    if why == "memory":
        node.scarce = True
    else:
        node.visits._waiting = PrefixShares(0, node.clock)
    stuck, other = node.tls_visit(to=FakeRoute()), node.tls_visit(to=FakeRoute())
    stuck.unreached_for = 1.0
    other.end(Outcome.NO_LANE)
    await turned_away(other, b"")
    await until(lambda: not node.visits._unreached)
    assert len(node.asked) == 1
    assert node.waits == []
    assert node.visits.running == 1
    stuck.end(Outcome.VISITOR_LOST)
    assert node.over()


async def test_a_node_that_stops_waits_for_nobody(node: Node) -> None:
    """Visitors that were handed back are dropped, and nothing is watched."""
    waiting, stuck, watched = (node.tls_visit(to=FakeRoute()) for _ in range(3))
    waiting.end(Outcome.NO_LANE)
    stuck.unreached_for, watched.unreached_for = 1.0, 0.0
    await until(lambda: len(node.waits) == 2)
    await node.visits.close()
    assert waiting.stream.aborted
    assert node.visits._waiting.held == 0
    assert len(node.visits._unreached) == 0
    stuck.end(Outcome.CUT)
    watched.end(Outcome.CUT)
    assert node.over()
