"""Visits from beginning to end, on a carrier that decides nothing: what is counted, and what visitors are told."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from portway_proto.carry.contract import Outcome, VisitEnd
from portway_proto.carry.errors import TlsSettingsError
from portway_proto.carry.settings import Address, ServerTls
from portway_proto.wire.frames import Opening, RefusalReason, VisitKind
from portway_proto.wire.labels import Epoch, Label
from portway_relay.config import Endpoint
from portway_relay.tunnels.tunnel import Tunnel
from portway_relay.tunnels.visits import Visits

LABEL = Label("k5zq2w7b3xav6mdy")
PEER = Endpoint("192.0.2.7", 4711)
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
REFUSED = [reason for reason in RefusalReason if reason is not RefusalReason.UNREACHABLE]

Pair = tuple[socket.socket, socket.socket]


class FakeStream:
    """A visitor whose first bytes come when the test says so."""

    def __init__(self, sock: socket.socket, tls: ServerTls | None) -> None:
        self.peer = Address(*sock.getpeername())
        self.tls = tls
        self.asked: list[float] = []
        self.finished: list[bytes] = []
        self.aborted = False
        self.speaks: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def abort(self) -> None:
        self.aborted = True

    async def first_bytes(self, within: float) -> bytes:
        self.asked.append(within)
        return await self.speaks


class FakeVisit:
    """A visit that ends when the test says so."""

    def __init__(self, stream: FakeStream, pool: object, opening: Opening, ended: Callable[..., None]) -> None:
        self.stream = stream
        self.pool = pool
        self.opening = opening
        self._ended = ended

    def end(self, outcome: Outcome, reason: RefusalReason = RefusalReason.OTHER, *, gone: bool = False) -> None:
        handed_back = outcome in (Outcome.REFUSED, Outcome.NO_LANE, Outcome.UNANSWERED) and not gone
        self._ended(self, VisitEnd(outcome, reason, "", self.stream if handed_back else None))


@dataclass
class FakeCarrier:
    """Remembers what it was asked for; sockets are closed at once, as nobody reads them here."""

    visits: list[FakeVisit] = field(default_factory=list)
    unusable: bool = False

    def accept(self, sock: socket.socket, tls: ServerTls | None) -> FakeStream:
        stream = FakeStream(sock, tls)
        sock.close()
        if self.unusable:
            raise TlsSettingsError("no such key")
        return stream

    def join(self, visitor: FakeStream, pool: object, opening: Opening, ended: Callable[..., None]) -> FakeVisit:
        self.visits.append(FakeVisit(visitor, pool, opening, ended))
        return self.visits[-1]

    def finish(self, stream: FakeStream, data: bytes) -> None:
        stream.finished.append(data)


@dataclass(eq=False)
class FakeLane:
    """The lane of a visitor that came in at another node."""

    refused: list[tuple[RefusalReason, str]] = field(default_factory=list)

    def refuse(self, reason: RefusalReason, message: str = "") -> None:
        self.refused.append((reason, message))


@dataclass(eq=False)
class FakeRoute:
    """A tunnel of another node."""

    label: str = LABEL
    pool: object = field(default_factory=object)
    full: bool = False
    visits: set[Any] = field(default_factory=set)


@dataclass
class FakeHolder:
    pool: object = field(default_factory=object)


@dataclass
class Node:
    """Visits and all that is around them."""

    carrier: FakeCarrier
    visits: Visits
    tunnel: Tunnel
    failures: list[BaseException]
    connect: Callable[[], Pair]
    asked: list[tuple[str, str, object, bool]]  # where else it is
    places: list[Any]  # the answers; then there are none

    def tls_visit(self, alpn: str | None = None, to: Any = None) -> FakeVisit:
        tls = ServerTls(b"chain", b"key", alpn=alpn)
        self.visits.start_tls(self.connect()[0], PEER, to or self.tunnel, "ams", tls)
        return self.carrier.visits[-1]

    def raw_visit(self) -> FakeVisit:
        self.visits.start_raw(self.connect()[0], PEER, self.tunnel, "fra")
        return self.carrier.visits[-1]

    def over(self) -> bool:
        return self.visits.running == 0 and not self.tunnel.visits


@pytest.fixture
async def node(connect: Callable[[], Pair]) -> AsyncIterator[Node]:
    carrier: Any = FakeCarrier()
    holder: Any = FakeHolder()
    tunnel = Tunnel(LABEL, Epoch(1), b"", holder, h2_enabled=False, max_visits=2, opened_at_ms=0)
    failures: list[BaseException] = []
    asked: list[tuple[str, str, object, bool]] = []
    places: list[Any] = []

    async def elsewhere(label: str, region: str, not_at: object, gone: bool) -> Any:
        asked.append((label, region, not_at, gone))
        return places.pop(0) if places else None

    visits = Visits(
        carrier,
        elsewhere,
        first_bytes_time=2.0,
        on_failure=failures.append,
    )
    yield Node(carrier, visits, tunnel, failures, connect, asked, places)
    await visits.close()
    assert failures == []


async def settled() -> None:
    """Whatever follows from what has happened, unless it waits for the test."""
    for _ in range(5):
        await asyncio.sleep(0)


async def turned_away(visit: FakeVisit, first_bytes: bytes) -> list[bytes]:
    """What a visitor that was handed back and sends these bytes is told."""
    while not visit.stream.asked:  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0)
    assert visit.stream.asked == [2.0]
    assert visit.stream.finished == []
    visit.stream.speaks.set_result(first_bytes)
    for _ in range(3):
        await asyncio.sleep(0)
    return visit.stream.finished


@pytest.mark.parametrize("alpn", [None, "http/1.1", "h2"])
async def test_a_tls_visitor_is_joined_to_its_tunnels_pool(node: Node, alpn: str | None) -> None:
    """TLS with the chosen protocol, an OPEN with label and address, the lanes of who holds the tunnel."""
    visit = node.tls_visit(alpn)
    assert visit.stream.tls == ServerTls(b"chain", b"key", alpn=alpn)
    assert visit.pool is node.tunnel.holder.pool
    assert visit.opening == Opening(LABEL, PEER.host, PEER.port, VisitKind.TLS)
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


@pytest.mark.parametrize(
    "first_bytes", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n", b"\x00\x01", b"GE"]
)
async def test_who_speaks_something_else_gets_a_clean_close(node: Node, first_bytes: bytes) -> None:
    """A page would be garbage to anything but HTTP/1, and to who said nothing in time."""
    visit = node.tls_visit()
    visit.end(Outcome.REFUSED, RefusalReason.UNREACHABLE)
    assert await turned_away(visit, first_bytes) == [b""]
    assert node.over()


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.NO_LANE, Outcome.UNANSWERED])
async def test_a_raw_visitor_that_nobody_takes_is_closed(node: Node, outcome: Outcome) -> None:
    """No page and no waiting: what is spoken on a raw port is not known."""
    visit = node.raw_visit()
    visit.end(outcome, RefusalReason.UNREACHABLE)
    await settled()
    assert visit.stream.finished == [b""]
    assert visit.stream.asked == []
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


@pytest.mark.parametrize(("outcome", "reason"), MOVED)
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
