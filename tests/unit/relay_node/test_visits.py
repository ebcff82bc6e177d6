"""Visits from beginning to end, on a carrier that decides nothing: what is counted, and what visitors are told."""

import asyncio
from collections.abc import Callable

import pytest
from portway_carrier.errors import TlsSettingsError
from portway_carrier.values import Outcome, ServerTls
from portway_proto.wire.frames import Opening, RefusalReason, VisitKind
from portway_testkit.fakes.fake_visits import (
    LABEL,
    NAME,
    PEER,
    REFUSED,
    REQUEST,
    Node,
    Pair,
    settled,
    turned_away,
    visits_node,  # noqa: F401 - the fixture `node`
)


@pytest.mark.parametrize("alpn", [None, "http/1.1", "h2"])
async def test_a_tls_visitor_is_joined_to_its_tunnels_pool(node: Node, alpn: str | None) -> None:
    """TLS with the chosen protocol, an OPEN with label and address, the lanes of who holds the tunnel."""
    visit = node.tls_visit(alpn)
    assert visit.stream.tls == ServerTls(b"chain", b"key", alpn=alpn)
    assert visit.pool is node.tunnel.holder.pool
    assert visit.opening == Opening(LABEL, PEER.host, PEER.port, VisitKind.TLS, server_name=NAME.host)
    assert node.tunnel.visits == {visit}
    assert node.visits.running == 1
    visit.end(Outcome.DONE)


async def test_a_raw_visitor_is_joined_as_it_is(node: Node) -> None:
    """No TLS, and the kind of visit says so."""
    visit = node.raw_visit()
    assert visit.stream.tls is None
    assert visit.opening == Opening(LABEL, PEER.host, PEER.port, VisitKind.RAW)
    assert node.tunnel.visits == {visit}
    visit.end(Outcome.DONE)


async def test_a_raw_visitor_without_a_tunnel_is_closed(node: Node, connect: Callable[[], Pair]) -> None:
    """The tunnel may have gone, or be full, since its port accepted."""
    ours, theirs = connect()
    node.visits.start_raw(ours, PEER, None, "fra")
    theirs.setblocking(True)
    assert theirs.recv(1) == b""
    running = [node.raw_visit(), node.raw_visit()]
    ours, theirs = connect()
    node.visits.start_raw(ours, PEER, node.tunnel, "fra")
    theirs.setblocking(True)
    assert theirs.recv(1) == b""
    assert node.visits.running == 2
    for visit in running:
        visit.end(Outcome.DONE)
    assert node.over()


async def test_a_raw_visitor_is_closed_while_memory_is_scarce(node: Node, connect: Callable[[], Pair]) -> None:
    """There is no alert to send, as there is to a visitor of a name."""
    node.scarce = True
    ours, theirs = connect()
    node.visits.start_raw(ours, PEER, node.tunnel, "fra")
    theirs.setblocking(True)
    assert theirs.recv(1) == b""
    assert node.over()
    node.scarce = False
    node.raw_visit().end(Outcome.DONE)
    assert node.visits.outcomes == {"done": 1}


async def test_a_certificate_that_cannot_be_used_leaves_no_visit(node: Node) -> None:
    """The error is the caller's to log; nothing is counted."""
    node.carrier.unusable = True
    with pytest.raises(TlsSettingsError):
        node.tls_visit()
    assert node.over()


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.RESET, Outcome.VISITOR_LOST, Outcome.LANE_LOST, Outcome.CUT])
@pytest.mark.parametrize("raw", [False, True])
async def test_an_end_is_counted_by_its_outcome(node: Node, outcome: Outcome, raw: bool) -> None:
    """The visit leaves its tunnel and the count of those that run; nobody is told anything more."""
    visit = node.raw_visit() if raw else node.tls_visit()
    visit.end(outcome)
    assert node.visits.outcomes == {outcome.value: 1}
    assert node.over()
    assert visit.stream.finished == []
    assert visit.stream.asked == []


async def test_outcomes_add_up(node: Node) -> None:
    """Each visit ends once in the sums."""
    first, second = node.tls_visit(), node.raw_visit()
    second.end(Outcome.DONE)
    assert node.tunnel.visits == {first}
    assert node.visits.running == 1
    first.end(Outcome.RESET)
    node.tls_visit().end(Outcome.DONE)
    assert node.visits.outcomes == {"done": 2, "reset": 1}
    assert node.over()


async def test_a_server_that_does_not_listen_is_told_to_http(node: Node) -> None:
    """A visitor that sends a request gets a 502 page that says so."""
    visit = node.tls_visit()
    visit.end(Outcome.REFUSED, RefusalReason.UNREACHABLE)
    (page,) = await turned_away(visit, REQUEST)
    assert page.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"not listening yet" in page
    assert node.visits.outcomes == {"refused": 1}
    assert node.over()


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [*((Outcome.REFUSED, reason) for reason in REFUSED), *((Outcome.NO_LANE, reason) for reason in RefusalReason)],
)
async def test_a_client_that_cannot_is_told_to_http(node: Node, outcome: Outcome, reason: RefusalReason) -> None:
    """For every other reason the page is a 503: trying again may help."""
    visit = node.tls_visit()
    visit.end(outcome, reason)
    (page,) = await turned_away(visit, REQUEST)
    assert page.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert node.over()


async def test_a_client_that_does_not_answer_is_told_to_http(node: Node) -> None:
    """With a 504, and nobody else is asked: the request may have reached a local server."""
    visit = node.tls_visit()
    visit.end(Outcome.UNANSWERED)
    (page,) = await turned_away(visit, REQUEST)
    assert page.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
    assert node.visits.outcomes == {"unanswered": 1}
    assert node.over()


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    "first_bytes", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n", b"\x00\x01", b"GE"]
)
async def test_who_speaks_something_else_gets_a_clean_close(node: Node, first_bytes: bytes, raw: bool) -> None:
    """A page would be garbage to anything but HTTP/1, and to who said nothing in time."""
    visit = node.raw_visit() if raw else node.tls_visit()
    visit.end(Outcome.REFUSED, RefusalReason.UNREACHABLE)
    assert await turned_away(visit, first_bytes) == [b""]
    assert node.over()


@pytest.mark.parametrize("method", [b"GET", b"PROPFIND", b"REPORT", b"QUERY", b"PURGE"])
@pytest.mark.parametrize(
    ("outcome", "status"), [(Outcome.REFUSED, b"502 "), (Outcome.NO_LANE, b"503 "), (Outcome.UNANSWERED, b"504 ")]
)
async def test_a_raw_visitor_that_nobody_takes_is_told_if_it_speaks_http(
    node: Node, outcome: Outcome, status: bytes, method: bytes
) -> None:
    """With the page of a visitor of a name, whatever its method."""
    visit = node.raw_visit()
    visit.end(outcome, RefusalReason.UNREACHABLE)
    (page,) = await turned_away(visit, method + b" /x HTTP/1.1\r\n\r\n")
    assert page.startswith(b"HTTP/1.1 " + status)
    assert node.over()


async def test_a_request_that_comes_in_pieces_is_waited_for(node: Node) -> None:
    """Each time for one byte more, and for no longer than first bytes are waited for in all."""
    visit = node.tls_visit()
    visit.end(Outcome.NO_LANE)
    await settled()
    request = b"PROPFIND / HTTP/1.1\r\n"
    for size in (1, 8, 9, 12, len(request)):
        assert visit.stream.finished == []
        visit.stream.says(request[:size])
        await settled()
    (page,) = visit.stream.finished
    assert page.startswith(b"HTTP/1.1 503 ")
    assert visit.stream.least == [1, 2, 9, 10, 13]
    assert visit.stream.asked == sorted(visit.stream.asked, reverse=True)
    assert node.over()


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.NO_LANE])
async def test_a_visitor_that_left_meanwhile_is_only_counted(node: Node, outcome: Outcome) -> None:
    """There is nobody to be told."""
    visit = node.tls_visit()
    visit.end(outcome, gone=True)
    assert node.visits.outcomes == {outcome.value: 1}
    assert node.over()


async def test_a_visitor_that_is_being_told_counts_still(node: Node) -> None:
    """Until it has its answer it takes one of its tunnel's places: many slow ones must not add up beside the limit."""
    visit = node.tls_visit()
    visit.end(Outcome.NO_LANE)
    await settled()
    assert node.tunnel.visits == {visit}
    assert node.visits.running == 1
    await turned_away(visit, b"")
    assert node.over()


async def test_closing_waits_for_nobody(node: Node) -> None:
    """Visitors that have not spoken are given up; places are free afterwards."""
    visits = [node.tls_visit(), node.tls_visit()]
    for visit in visits:
        visit.end(Outcome.NO_LANE)
    await settled()
    await node.visits.close()
    await node.visits.close()
    assert [visit.stream.finished for visit in visits] == [[], []]
    assert node.over()


async def test_the_visits_of_now_are_waited_for_and_no_others(node: Node) -> None:
    """New ones, which may come for ever, do not make a node that stops wait longer."""
    first, second = node.raw_visit(), node.raw_visit()
    waiting = asyncio.ensure_future(node.visits.over_of_now())
    await asyncio.sleep(0)
    first.end(Outcome.DONE)
    third = node.raw_visit()
    await asyncio.sleep(0)
    assert not waiting.done()
    second.end(Outcome.DONE)
    await waiting
    third.end(Outcome.DONE)


async def test_a_visit_that_moves_nothing_is_closed_in_order(node: Node) -> None:
    """Not one that has moved bytes since, has some waiting, began later, or is over."""
    idle, moving, full, over = (node.tls_visit(None) for _ in range(4))
    idle.bytes_in, moving.bytes_out = 1_000, 5
    before = node.visits.moved()
    moving.bytes_in, moving.bytes_out, full.buffered = 2, 6, 1
    over.end(Outcome.DONE)
    later = node.tls_visit(None)
    assert node.visits.close_idle(before) == 1
    assert set(dict(node.visits.all())) == {moving, full, later}
    for visit in (moving, full, later):
        visit.end(Outcome.DONE)
