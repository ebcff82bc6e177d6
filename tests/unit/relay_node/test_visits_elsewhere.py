"""Visits that are tried elsewhere, and those that come from other nodes."""

import asyncio
from typing import Any

import pytest
from portway_carrier.values import Outcome
from portway_proto.wire.frames import Opening, RefusalReason, VisitKind
from portway_relay.routing.tunnel import Tunnel
from portway_testkit.fakes.fake_visits import (
    LABEL,
    REQUEST,
    FakeLane,
    FakeRoute,
    Node,
    settled,
    turned_away,
    visits_node,  # noqa: F401 - the fixture `node`
)

MOVED = [
    (Outcome.REFUSED, RefusalReason.NOT_HERE),
    (Outcome.REFUSED, RefusalReason.SHUTDOWN),
    (Outcome.NO_LANE, RefusalReason.OTHER),
]


@pytest.mark.parametrize(("outcome", "reason"), MOVED)
@pytest.mark.parametrize("raw", [False, True])
async def test_a_visitor_of_a_tunnel_that_moved_is_joined_again(
    node: Node, outcome: Outcome, reason: RefusalReason, raw: bool
) -> None:
    """Whole, with the same opening, and counted once: where it was until it is where it goes."""
    node.places.append(route := FakeRoute())
    visit = node.raw_visit() if raw else node.tls_visit()
    visit.end(outcome, reason)
    assert node.visits.running == 1
    await settled()
    again = node.carrier.visits[-1]
    assert (again.stream, again.opening, again.pool) == (visit.stream, visit.opening, route.pool)
    assert node.asked == [(LABEL, "fra" if raw else "ams", node.tunnel, outcome is Outcome.REFUSED)]
    assert (node.tunnel.visits, route.visits) == (set(), {again})
    assert node.visits.running == 1
    again.end(Outcome.DONE)
    assert route.visits == set()
    assert node.visits.outcomes == {outcome.value: 1, "done": 1}
    assert node.over()


@pytest.mark.parametrize(("outcome", "reason"), MOVED[:2])
async def test_a_visitor_is_tried_elsewhere_once(node: Node, outcome: Outcome, reason: RefusalReason) -> None:
    """A tunnel that is nowhere must not send its visitors from node to node."""
    node.places += [FakeRoute(), FakeRoute()]
    node.tls_visit().end(outcome, reason)
    await settled()
    again = node.carrier.visits[-1]
    again.end(outcome, reason)
    (page,) = await turned_away(again, REQUEST)
    assert page.startswith(b"HTTP/1.1 503 ")
    assert node.visits.forwards == {"tried_again": 1, "sent": 1, "came_back": 1}
    assert len(node.asked) == 1
    assert node.over()


@pytest.mark.parametrize("reason", [RefusalReason.UNREACHABLE, RefusalReason.OVERLOADED, RefusalReason.OTHER])
async def test_what_is_true_everywhere_is_not_tried_elsewhere(node: Node, reason: RefusalReason) -> None:
    """A local server that does not listen does not listen at another node's client either."""
    visit = node.tls_visit()
    visit.end(Outcome.REFUSED, reason)
    await turned_away(visit, b"")
    assert node.asked == []


async def test_a_place_that_is_full_is_no_place(node: Node) -> None:
    """The tunnel has moved here, and has as many visits as it may."""
    node.places.append(FakeRoute(full=True))
    visit = node.tls_visit()
    visit.end(Outcome.REFUSED, RefusalReason.NOT_HERE)
    assert (await turned_away(visit, REQUEST))[0].startswith(b"HTTP/1.1 503 ")
    assert node.over()


async def test_a_search_that_is_cut_leaves_no_visitor(node: Node) -> None:
    """The node stops meanwhile: the visitor is dropped and its place is free."""
    visit = node.tls_visit()
    visit.end(Outcome.NO_LANE)
    await asyncio.sleep(0)
    await node.visits.close()
    assert visit.stream.finished == []
    assert node.over()


async def test_a_search_that_never_began_leaves_no_visitor(node: Node) -> None:
    """Stopped before its first step it has dropped the visitor all the same."""
    visit = node.tls_visit()
    visit.end(Outcome.NO_LANE)
    await node.visits.close()
    assert visit.stream.aborted
    assert node.over()


def forwarded(node: Node, tunnel: Tunnel | None, kind: VisitKind = VisitKind.TLS) -> tuple[FakeLane, Opening]:
    lane: Any = FakeLane()
    opening = Opening(LABEL, "2001:db8::7", 4711, kind)
    node.visits.start_forwarded(lane, opening, tunnel)
    return lane, opening


@pytest.mark.parametrize("kind", list(VisitKind))
async def test_a_forwarded_visitor_keeps_its_address_and_kind(node: Node, kind: VisitKind) -> None:
    """The opening goes on as it came; the lane is the visitor."""
    lane, opening = forwarded(node, node.tunnel, kind)
    assert node.visits.forwards == {"taken": 1}
    visit = node.carrier.visits[-1]
    assert (visit.stream, visit.opening, visit.pool) == (lane, opening, node.tunnel.holder.pool)
    assert node.tunnel.visits == {visit}
    visit.end(Outcome.DONE)
    assert node.over()


async def test_a_forwarded_visitor_of_nobody_is_refused(node: Node) -> None:
    """It is not sent on: one hop, never a loop."""
    lane, _ = forwarded(node, None)
    assert node.visits.forwards == {"not_taken": 1}
    assert lane.refused == [(RefusalReason.NOT_HERE, "")]
    assert node.carrier.visits == []
    assert node.asked == []


async def test_a_forwarded_visitor_of_a_full_tunnel_is_refused(node: Node) -> None:
    """The home node counts all visits, wherever they came in."""
    running = [node.tls_visit(), node.raw_visit()]
    lane, _ = forwarded(node, node.tunnel)
    assert [reason for reason, _ in lane.refused] == [RefusalReason.OVERLOADED]
    for visit in running:
        visit.end(Outcome.DONE)


async def test_a_forwarded_visitor_is_refused_while_memory_is_scarce(node: Node) -> None:
    """At the tunnel's home; the node that the visitor came to answers it."""
    node.scarce = True
    lane, _ = forwarded(node, node.tunnel)
    assert lane.refused == [(RefusalReason.OVERLOADED, "this node is short of memory")]
    assert node.visits.forwards == {"not_taken": 1}
    assert node.over()


@pytest.mark.parametrize("reason", list(RefusalReason))
async def test_what_a_client_refuses_its_node_refuses(node: Node, reason: RefusalReason) -> None:
    """The reason goes back to the node where the visitor is, which decides; nothing is tried from here."""
    lane, _ = forwarded(node, node.tunnel)
    node.carrier.visits[-1].end(Outcome.REFUSED, reason)
    assert [said for said, _ in lane.refused] == [reason]
    assert node.asked == []
    assert node.over()


@pytest.mark.parametrize(("live", "reason"), [(True, RefusalReason.OVERLOADED), (False, RefusalReason.NOT_HERE)])
async def test_a_client_without_lanes_is_full_or_away(node: Node, live: bool, reason: RefusalReason) -> None:
    """Whose client is away may be at another node; whose client has too much to do is not."""
    lane, _ = forwarded(node, node.tunnel)
    node.tunnel.live = live
    node.carrier.visits[-1].end(Outcome.NO_LANE)
    assert [said for said, _ in lane.refused] == [reason]
    assert node.over()
