"""A carrier that joins nothing, and a node's visits whose ends a test decides.

Not here: real carriers (links/carrier_link.py).
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from portway_carrier.contract import VisitEnd
from portway_carrier.errors import TlsSettingsError
from portway_carrier.values import Outcome, ServerTls
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_proto.wire.frames import Opening, RefusalReason
from portway_proto.wire.statements import SigningKey
from portway_relay.routing.tunnel import Tunnel
from portway_relay.visits import VisitedName, Visits
from portway_runtime.endpoints import Endpoint

from portway_testkit.fakes.clock import ManualClock
from portway_testkit.signers import SessionSigner, label_of

KEY = SigningKey(b"\x04" * 32)
LABEL = label_of(KEY)
PEER = Endpoint("192.0.2.7", 4711)
NAME = VisitedName(f"{LABEL}.ams.example.com", "ams")
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
REFUSED = [reason for reason in RefusalReason if reason is not RefusalReason.UNREACHABLE]

Pair = tuple[socket.socket, socket.socket]


class FakeStream:
    """A visitor whose first bytes the test provides."""

    def __init__(self, sock: socket.socket, tls: ServerTls | None) -> None:
        self.peer = Endpoint(*sock.getpeername())
        self.tls = tls
        self.asked: list[float] = []
        self.least: list[int] = []
        self.finished: list[bytes] = []
        self.aborted = False
        self.speaks: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def abort(self) -> None:
        self.aborted = True

    async def first_bytes(self, within: float, least: int = 1) -> bytes:
        self.asked.append(within)
        self.least.append(least)
        return await self.speaks

    def says(self, first_bytes: bytes) -> None:
        """What it has sent so far; another answer is awaited next time."""
        spoken, self.speaks = self.speaks, asyncio.get_running_loop().create_future()
        spoken.set_result(first_bytes)


class FakeVisit:
    """A visit that the test ends."""

    def __init__(self, stream: FakeStream, pool: object, opening: Opening, ended: Callable[..., None]) -> None:
        self.stream = stream
        self.pool = pool
        self.opening = opening
        self._ended = ended
        self.bytes_in = self.bytes_out = self.buffered = 0
        self.is_unreached_for: float | None = None
        self.looked_at = 0  # times that this was read
        self.taken_back = False

    def close(self) -> None:
        self.end(Outcome.DONE)

    @property
    def unreached_for(self) -> float | None:
        self.looked_at += 1
        return self.is_unreached_for

    @unreached_for.setter
    def unreached_for(self, seconds: float | None) -> None:
        self.is_unreached_for = seconds

    def take_back(self) -> None:
        self.taken_back = True
        if self.is_unreached_for is not None:
            self.is_unreached_for = None
            self.end(Outcome.UNREACHED)

    def end(self, outcome: Outcome, reason: RefusalReason = RefusalReason.OTHER, *, gone: bool = False) -> None:
        back = (Outcome.REFUSED, Outcome.NO_LANE, Outcome.UNREACHED, Outcome.UNANSWERED)
        handed_back = outcome in back and not gone
        visitor: Any = self.stream if handed_back else None
        self._ended(self, VisitEnd(outcome, reason, "", visitor))


@dataclass
class FakeCarrier:
    """Records the calls; sockets are closed at once, because nothing reads them."""

    visits: list[FakeVisit] = field(default_factory=list)
    unusable: bool = False

    def accept(
        self,
        sock: socket.socket,
        tls: ServerTls | None,
        established: Callable[[], None] | None = None,
        *,
        peer: Endpoint | None = None,
    ) -> FakeStream:
        assert peer == PEER
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
    """The lane of a visitor that entered at another node."""

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
class FakeFinder:
    """Answers where else a label is, as the test decides."""

    asked: list[tuple[str, str, object, bool]]
    places: list[Any]
    waits: list[tuple[object, float, bool]] = field(default_factory=list)  # for clients of nodes that are not reached
    told: asyncio.Event = field(default_factory=asyncio.Event)  # `places` counts for those that wait

    async def find_elsewhere(self, label: str, region: str, *, not_at: object, denied: bool) -> Any:
        self.asked.append((label, region, not_at, denied))
        return self.places.pop(0) if self.places else None

    async def find_again(self, label: str, region: str, *, not_at: object, within: float, or_there: bool) -> Any:
        self.waits.append((not_at, within, or_there))
        while not self.places and within > 0:
            await self.told.wait()
        return self.places.pop(0) if self.places else None


@dataclass
class Node:
    """Visits and everything around them."""

    carrier: FakeCarrier
    visits: Visits
    tunnel: Tunnel
    failures: list[BaseException]
    connect: Callable[[], Pair]
    asked: list[tuple[str, str, object, bool]]  # questions where else a label is
    places: list[Any]  # the answers to them, in order; none after the last
    waits: list[tuple[object, float, bool]]  # for clients of nodes that are not reached: see FakeFinder
    told: asyncio.Event  # `places` counts for those waits, too
    clock: ManualClock
    scarce: bool = False  # memory

    def tls_visit(self, alpn: str | None = None, to: Any = None) -> FakeVisit:
        tls = ServerTls(b"chain", b"key", alpn=alpn)
        self.visits.start_tls(self.connect()[0], PEER, to or self.tunnel, NAME, tls, lambda: None)
        return self.carrier.visits[-1]

    def raw_visit(self) -> FakeVisit:
        self.visits.start_raw(self.connect()[0], PEER, self.tunnel, "fra")
        return self.carrier.visits[-1]

    def over(self) -> bool:
        return self.visits.running == 0 and not self.tunnel.visits


@pytest.fixture(name="node")
async def visits_node(connect: Callable[[], Pair], clock: ManualClock) -> AsyncIterator[Node]:
    carrier: Any = FakeCarrier()
    holder: Any = FakeHolder()
    claim = SessionSigner().claim(KEY, node="relay-1", epoch=1)
    tunnel = Tunnel(claim, holder, TunnelOptions(), max_visits=2, opened_at_ms=0)
    failures: list[BaseException] = []
    asked: list[tuple[str, str, object, bool]] = []
    places: list[Any] = []

    finder: Any = FakeFinder(asked, places)
    waits: list[tuple[object, float, bool]] = finder.waits
    visits = Visits(
        carrier,
        finder,
        first_bytes_time=2.0,
        is_memory_scarce=lambda: node.scarce,
        clock=clock,
        on_failure=failures.append,
    )
    node = Node(carrier, visits, tunnel, failures, connect, asked, places, waits, finder.told, clock)
    yield node
    await visits.close()
    assert failures == []


async def settled() -> None:
    """Run the loop until everything has been done that does not wait for the test."""
    for _ in range(5):
        await asyncio.sleep(0)


async def turned_away(visit: FakeVisit, first_bytes: bytes) -> list[bytes]:
    """The answer to a visitor that was handed back and has sent these bytes."""
    while not visit.stream.asked:  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0)
    assert visit.stream.asked == [2.0]
    assert visit.stream.finished == []
    visit.stream.speaks.set_result(first_bytes)
    for _ in range(3):
        await asyncio.sleep(0)
    return visit.stream.finished
