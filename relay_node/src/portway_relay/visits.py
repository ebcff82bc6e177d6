"""Visits: each visitor that was routed to a tunnel, until it is over.

Here: joining, counting, a second try where the tunnel is now, and what a visitor is told whom nobody took. Not here:
who is routed where (ingress/, mesh/), nor the bytes (the carrier).
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, cast

from portway_carrier.contract import Carrier, Lane, Outcome, Pool, Stream, Visit, VisitEnd
from portway_carrier.values import ServerTls
from portway_proto.wire.frames import Opening, RefusalReason, VisitKind
from portway_runtime.endpoints import Endpoint
from portway_runtime.tasks import Tasks

from portway_relay.net.plain_http import bad_gateway, gateway_timeout, looks_like_http, unavailable
from portway_relay.routing.tunnel import Tunnel

logger = logging.getLogger(__name__)

# The tunnel has moved, or is moving: another node may have it by now. Other refusals are as true elsewhere.
_MOVED: Final = frozenset({RefusalReason.NOT_HERE, RefusalReason.SHUTDOWN})


class Destination(Protocol):
    """Where a visitor goes: a tunnel of this node, or a route to another one."""

    @property
    def label(self) -> str: ...

    @property
    def pool(self) -> Pool: ...

    @property
    def full(self) -> bool: ...

    @property
    def visits(self) -> set[Visit]: ...


# Of a label, by the region in its name: where it is when it is not at this destination. True when that one said so.
Elsewhere = Callable[[str, str, Destination, bool], Awaitable[Destination | None]]


@dataclass(slots=True)
class _Arrival:
    """A visitor that this node took in. `again` while it may be tried elsewhere."""

    destination: Destination
    region: str
    again: bool = True


class Visits:
    """Starts visits and sees them to their ends."""

    def __init__(
        self,
        carrier: Carrier,
        elsewhere: Elsewhere,
        *,
        first_bytes_time: float,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._carrier = carrier
        self._elsewhere = elsewhere
        self._first_bytes_time = first_bytes_time
        self._tasks = Tasks("visits", on_failure)
        self._idle = asyncio.Event()
        self._idle.set()
        self.running = 0
        self.outcomes: Counter[str] = Counter()
        self.forwards: Counter[str] = Counter()  # to other nodes and from them, by what became of them

    def start_tls(
        self, sock: socket.socket, peer: Endpoint, destination: Destination, region: str, tls: ServerTls
    ) -> None:
        """A visitor of a name in `region`. Owns the socket. Raises TlsSettingsError."""
        self._start(sock, peer, destination, region, VisitKind.TLS, tls)

    def start_raw(self, sock: socket.socket, peer: Endpoint, destination: Destination | None, region: str) -> None:
        """A visitor of a raw port, whose tunnel may just have gone. Owns the socket."""
        if destination is None or destination.full:
            sock.close()
            return
        self._start(sock, peer, destination, region, VisitKind.RAW, None)

    def start_forwarded(self, lane: Lane, opening: Opening, tunnel: Tunnel | None) -> None:
        """A visitor that came in at another node: served from here or refused, never sent on."""
        self.forwards["taken" if tunnel is not None and not tunnel.full else "not_taken"] += 1
        if tunnel is None:
            lane.refuse(RefusalReason.NOT_HERE)
        elif tunnel.full:
            lane.refuse(RefusalReason.OVERLOADED, "the tunnel has as many visits as it may")
        else:
            visit = self._carrier.join(lane, tunnel.pool, opening, partial(self._forwarded_ended, tunnel))
            self._begins(tunnel, visit)

    async def over(self) -> None:
        """Wait until none is in progress."""
        await self._idle.wait()

    async def close(self) -> None:
        """Stop answering those that nobody took."""
        await self._tasks.close()

    def _start(
        self,
        sock: socket.socket,
        peer: Endpoint,
        destination: Destination,
        region: str,
        kind: VisitKind,
        tls: ServerTls | None,
    ) -> None:
        stream = self._carrier.accept(sock, tls)
        opening = Opening(destination.label, peer.host, peer.port, kind)
        self._join(stream, opening, _Arrival(destination, region))

    def _join(self, stream: Stream, opening: Opening, arrival: _Arrival) -> None:
        if not isinstance(arrival.destination, Tunnel):
            self.forwards["sent"] += 1
        visit = self._carrier.join(stream, arrival.destination.pool, opening, partial(self._ended, arrival))
        self._begins(arrival.destination, visit)

    def _ended(self, arrival: _Arrival, visit: Visit, end: VisitEnd) -> None:
        if end.visitor is None:
            self._over(arrival.destination, visit, end)
            return
        if not isinstance(arrival.destination, Tunnel):
            self.forwards["came_back"] += 1
        # Lanes are visitors of `start_forwarded` alone.
        stream = cast(Stream, end.visitor)
        if arrival.again and _may_be_elsewhere(end):
            arrival.again = False
            trying = self._tasks.spawn(self._try_elsewhere(arrival, visit, end, stream), name="try elsewhere")
            # Not in the task itself: one that is cancelled before its first step never runs.
            trying.add_done_callback(partial(self._tried, arrival, visit, end, stream))
        else:
            self._turn_away(arrival, visit, end, stream)

    def _forwarded_ended(self, tunnel: Tunnel, visit: Visit, end: VisitEnd) -> None:
        if end.visitor is not None:
            cast(Lane, end.visitor).refuse(_refusal(tunnel, end), end.message)
        self._over(tunnel, visit, end)

    async def _try_elsewhere(self, arrival: _Arrival, visit: Visit, end: VisitEnd, stream: Stream) -> None:
        """Once: nothing of it has reached a local server. It stays counted where it was while it is looked for."""
        gone = end.outcome is Outcome.REFUSED
        found = await self._elsewhere(visit.opening.label, arrival.region, arrival.destination, gone)
        if found is None or found.full:
            self._turn_away(arrival, visit, end, stream)
            return
        before, arrival.destination = arrival.destination, found
        self.forwards["tried_again"] += 1
        self._join(stream, visit.opening, arrival)
        self._over(before, visit, end)

    def _tried(
        self, arrival: _Arrival, visit: Visit, end: VisitEnd, stream: Stream, trying: asyncio.Task[None]
    ) -> None:
        if trying.cancelled() or trying.exception() is not None:
            stream.abort()
            self._over(arrival.destination, visit, end)

    def _turn_away(self, arrival: _Arrival, visit: Visit, end: VisitEnd, stream: Stream) -> None:
        if visit.opening.kind is VisitKind.RAW:
            self._carrier.finish(stream, b"")
            self._over(arrival.destination, visit, end)
            return
        if end.outcome is Outcome.UNANSWERED:
            page = gateway_timeout()
        elif end.outcome is Outcome.REFUSED and end.reason is RefusalReason.UNREACHABLE:
            page = bad_gateway()
        else:
            page = unavailable()
        answering = self._tasks.spawn(self._answer(stream, page), name="turn away")
        answering.add_done_callback(lambda _: self._over(arrival.destination, visit, end))

    async def _answer(self, stream: Stream, page: bytes) -> None:
        """Tell a visitor that speaks HTTP; end the connection with any other in order."""
        first_bytes = await stream.first_bytes(self._first_bytes_time)
        self._carrier.finish(stream, page if looks_like_http(first_bytes) else b"")

    def _begins(self, destination: Destination, visit: Visit) -> None:
        destination.visits.add(visit)
        self.running += 1
        self._idle.clear()

    def _over(self, destination: Destination, visit: Visit, end: VisitEnd) -> None:
        self.outcomes[end.outcome.value] += 1
        destination.visits.discard(visit)
        self.running -= 1
        if not self.running:
            self._idle.set()


def _refusal(tunnel: Tunnel, end: VisitEnd) -> RefusalReason:
    """Why a visitor of the mesh was not taken: a client that is away may be at another node by now."""
    if end.outcome is not Outcome.NO_LANE:
        return end.reason
    return RefusalReason.OVERLOADED if tunnel.live else RefusalReason.NOT_HERE


def _may_be_elsewhere(end: VisitEnd) -> bool:
    return end.outcome is Outcome.NO_LANE or (end.outcome is Outcome.REFUSED and end.reason in _MOVED)
