"""Visits: each visitor that was routed to a tunnel, from the join to the end.

Here: joining, counting, further tries at another destination, waiting for the client of a node that is not reached, and
the answer to a visitor that no client took. Not here: which destination a visitor goes to, nor how bytes move, which is
the carrier's.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from portway_carrier.contract import Carrier, Lane, Stream, Visit, VisitEnd
from portway_carrier.values import Outcome, ServerTls
from portway_proto.wire.frames import Opening, RefusalReason, VisitKind
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.shares import PrefixShares
from portway_runtime.tasks import Tasks

from portway_relay.net.http_pages import bad_gateway, gateway_timeout, unavailable, without_body
from portway_relay.net.plain_http import looks_like_http, may_become_http, wants_head_only
from portway_relay.routing.lookup import Destination, DestinationFinder
from portway_relay.routing.tunnel import Tunnel
from portway_relay.unreached_visits import UnreachedVisits

logger = logging.getLogger(__name__)

# Refusals after which another node may have the tunnel. The other reasons would be the same elsewhere.
_MOVED: Final = frozenset({RefusalReason.NOT_HERE, RefusalReason.SHUTDOWN})
# Seconds, from its arrival, that a visitor waits for the client of a node that is not reached. The client of a silent
# node notices after 10 s at most, asks a registry half a second later, and needs some round trips; other nodes hear of
# it in another half second. 10.7 to 11.8 s were seen; the rest is for machines that are busy.
_PATIENCE: Final = 15.0
# Visitors that wait at the same time; their prefixes share them. Each holds what it has sent, 64 KiB at most.
_MAX_WAITING: Final = 1_024
# A node that takes lanes and drops them must not get a visitor again and again.
_MOST_JOINS: Final = 4


@dataclass(frozen=True, slots=True)
class VisitedName:
    """The host name that a visitor asked for, in lower case, and the region in it."""

    host: str
    region: str


@dataclass(slots=True)
class _Arrival:
    """A visitor that came to this node.

    until: when it has waited long enough.
    again: a destination may still refuse it.
    seeking: looks for its client while it is on its way to another node, and nothing of it arrives.
    """

    destination: Destination
    region: str
    until: float
    again: bool = True
    joins: int = 0
    seeking: asyncio.Task[None] | None = None


class Visits:
    """Starts visits, and handles their ends."""

    def __init__(
        self,
        carrier: Carrier,
        finder: DestinationFinder,
        *,
        first_bytes_time: float,
        is_memory_scarce: Callable[[], bool],
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """
        first_bytes_time: seconds to wait for the first bytes of a visitor that was refused, to see if it is HTTP.
        is_memory_scarce: while it is no visit of a raw port begins, and none that another node forwards; visitors of
            names are refused before their handshake (ingress/).
        """
        self._carrier = carrier
        self._finder = finder
        self._first_bytes_time = first_bytes_time
        self._is_memory_scarce = is_memory_scarce
        self._tasks = Tasks("visits", on_failure)
        self._clock = clock
        self._unreached = UnreachedVisits()
        self._waiting = PrefixShares(_MAX_WAITING, clock)
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended_one = asyncio.Event()
        self._running: dict[Visit, Destination] = {}
        self.outcomes: Counter[str] = Counter()
        self.forwards: Counter[str] = Counter()  # visits sent to other nodes or taken from them, by outcome

    def start_tls(
        self,
        sock: socket.socket,
        peer: Endpoint,
        destination: Destination,
        name: VisitedName,
        tls: ServerTls,
        established: Callable[[], None],
    ) -> None:
        """Start the visit of a name; `established` is called after the handshake. Owns the socket. Raises
        TlsSettingsError."""
        stream = self._carrier.accept(sock, tls, established, peer=peer)
        opening = Opening(destination.label, peer.host, peer.port, VisitKind.TLS, server_name=name.host)
        self._join(stream, opening, self._arrival(destination, name.region))

    def start_raw(self, sock: socket.socket, peer: Endpoint, destination: Destination | None, region: str) -> None:
        """Start the visit of a raw port; without a destination or room for it, end it. Owns the socket."""
        if destination is None or destination.full or self._is_memory_scarce():
            sock.close()
            return
        stream = self._carrier.accept(sock, None, peer=peer)
        opening = Opening(destination.label, peer.host, peer.port, VisitKind.RAW)
        self._join(stream, opening, self._arrival(destination, region))

    def start_forwarded(self, lane: Lane, opening: Opening, tunnel: Tunnel | None) -> None:
        """Start a visit that another node forwarded, or refuse it; it is never forwarded again."""
        if tunnel is None:
            self._refuse_forwarded(lane, RefusalReason.NOT_HERE)
        elif tunnel.full:
            self._refuse_forwarded(lane, RefusalReason.OVERLOADED, "the tunnel has as many visits as it may have")
        elif self._is_memory_scarce():
            self._refuse_forwarded(lane, RefusalReason.OVERLOADED, "this node is short of memory")
        else:
            self.forwards["taken"] += 1
            visit = self._carrier.join(lane, tunnel.pool, opening, partial(self._forwarded_ended, tunnel))
            self._begins(tunnel, visit)

    @property
    def running(self) -> int:
        """Visits in progress."""
        return len(self._running)

    def all(self) -> Iterable[tuple[Visit, Destination]]:
        """Every visit in progress, with its destination."""
        return self._running.items()

    async def over(self) -> None:
        """Wait until no visit is in progress."""
        await self._idle.wait()

    async def over_of_now(self) -> None:
        """Wait until none of the visits that are in progress now is."""
        for visit in tuple(self._running):
            while visit in self._running:
                self._ended_one.clear()
                await self._ended_one.wait()

    def moved(self) -> dict[Visit, int]:
        """The bytes that each visit in progress has moved so far, both ways."""
        return {visit: visit.bytes_in + visit.bytes_out for visit in self._running}

    def close_idle(self, before: Mapping[Visit, int]) -> int:
        """Close in order the visits that have moved nothing since `before` (`moved`); returns how many. To their peers
        that is what a server does that closes a connection which nobody uses."""
        idle = [
            visit
            for visit, size in before.items()
            if visit in self._running and visit.bytes_in + visit.bytes_out == size and not visit.buffered
        ]
        for visit in idle:
            visit.close()
        return len(idle)

    async def close(self) -> None:
        """Stop answering visitors that were refused, or wait. Visits in progress are not touched."""
        self._unreached.close()
        await self._tasks.close()

    def _arrival(self, destination: Destination, region: str) -> _Arrival:
        return _Arrival(destination, region, self._clock() + _PATIENCE)

    def _join(self, stream: Stream, opening: Opening, arrival: _Arrival) -> None:
        arrival.joins += 1
        visit = self._carrier.join(stream, arrival.destination.pool, opening, partial(self._ended, arrival))
        self._begins(arrival.destination, visit)
        if not isinstance(arrival.destination, Tunnel):
            self.forwards["sent"] += 1
            self._unreached.watch(visit, partial(self._stuck, arrival))

    def _stuck(self, arrival: _Arrival, visit: Visit) -> None:
        """Nothing of a visit arrives at another node. Look where its client goes; meanwhile it may arrive yet."""
        host = visit.opening.visitor_host
        if self._may_wait(host):
            arrival.seeking = self._tasks.spawn(self._take_back(visit, arrival), name="seek its client")
            arrival.seeking.add_done_callback(lambda _: self._waiting.give_back(host))

    async def _take_back(self, visit: Visit, arrival: _Arrival) -> None:
        """Take the visit back when its client is found, to be joined there, or when it has waited long enough: unless
        something of it has arrived."""
        await self._find_again(visit, arrival, or_there=False)
        visit.take_back()

    def _ended(self, arrival: _Arrival, visit: Visit, end: VisitEnd) -> None:
        if arrival.seeking is not None:
            arrival.seeking.cancel()
            arrival.seeking = None
        if end.visitor is None:
            self._over(arrival.destination, visit, end)
            return
        if not isinstance(arrival.destination, Tunnel):
            self.forwards["came_back"] += 1
        # Only the visitors of `start_forwarded` are lanes.
        stream = cast(Stream, end.visitor)
        if self._may_go_on(arrival, end):
            trying = self._tasks.spawn(self._try_elsewhere(arrival, visit, end, stream), name="try elsewhere")
            # A callback rather than the task itself: a task that is cancelled before its first step never runs.
            trying.add_done_callback(partial(self._tried, arrival, visit, end, stream))
        else:
            self._turn_away(arrival, visit, end, stream)

    def _forwarded_ended(self, tunnel: Tunnel, visit: Visit, end: VisitEnd) -> None:
        if end.visitor is not None:
            cast(Lane, end.visitor).refuse(_refusal(tunnel, end), end.message)
        self._over(tunnel, visit, end)

    def _refuse_forwarded(self, lane: Lane, reason: RefusalReason, message: str = "") -> None:
        self.forwards["not_taken"] += 1
        lane.refuse(reason, message)

    async def _try_elsewhere(self, arrival: _Arrival, visit: Visit, end: VisitEnd, stream: Stream) -> None:
        """Join it to another destination: no byte of it has reached a local server. Until one is found the visit
        counts at the one before."""
        host = visit.opening.visitor_host
        if _is_unreached(arrival, end) and self._may_wait(host):
            try:
                # What has been sent there may have arrived, in a network that passes one direction only.
                found = await self._find_again(visit, arrival, or_there=end.outcome is Outcome.NO_LANE)
            finally:
                self._waiting.give_back(host)
        else:
            denied = end.outcome is Outcome.REFUSED
            found = await self._finder.find_elsewhere(
                visit.opening.label, arrival.region, not_at=arrival.destination, denied=denied
            )
        if found is None or found.full:
            self._turn_away(arrival, visit, end, stream)
            return
        before, arrival.destination = arrival.destination, found
        self.forwards["tried_again"] += 1
        self._join(stream, visit.opening, arrival)
        self._over(before, visit, end)

    def _may_go_on(self, arrival: _Arrival, end: VisitEnd) -> bool:
        """Whether another destination may take the visitor. Two refusals are final; a node that was not reached has
        said nothing."""
        if arrival.joins >= _MOST_JOINS:
            return False
        if _is_unreached(arrival, end):
            return self._clock() < arrival.until
        again, arrival.again = arrival.again, False
        return again and (end.outcome is Outcome.NO_LANE or (end.outcome is Outcome.REFUSED and end.reason in _MOVED))

    def _may_wait(self, host: str) -> bool:
        """Take a place for a visitor from this address; False when there is none for it."""
        return not self._is_memory_scarce() and self._waiting.take(host)

    async def _find_again(self, visit: Visit, arrival: _Arrival, *, or_there: bool) -> Destination | None:
        """Where the client of a node that was not reached is, as long as the visitor may wait."""
        left = max(0.0, arrival.until - self._clock())
        return await self._finder.find_again(
            visit.opening.label, arrival.region, not_at=arrival.destination, within=left, or_there=or_there
        )

    def _tried(
        self, arrival: _Arrival, visit: Visit, end: VisitEnd, stream: Stream, trying: asyncio.Task[None]
    ) -> None:
        if trying.cancelled() or trying.exception() is not None:
            stream.abort()
            self._over(arrival.destination, visit, end)

    def _turn_away(self, arrival: _Arrival, visit: Visit, end: VisitEnd, stream: Stream) -> None:
        """End a visitor that no client took, with an answer if it speaks HTTP, also on a raw port."""
        if end.outcome is Outcome.UNANSWERED:
            page = gateway_timeout()
        elif end.outcome is Outcome.REFUSED and end.reason is RefusalReason.UNREACHABLE:
            page = bad_gateway()
        else:
            page = unavailable()
        answering = self._tasks.spawn(self._answer(stream, page), name="turn away")
        answering.add_done_callback(lambda _: self._over(arrival.destination, visit, end))

    async def _answer(self, stream: Stream, page: bytes) -> None:
        """Send the page to a visitor that speaks HTTP. The stream of any other is closed: at once when its first bytes
        cannot become a request, after `first_bytes_time` when it says too little."""
        loop = asyncio.get_running_loop()
        left, least = self._first_bytes_time, 1
        deadline = loop.time() + left
        first_bytes = await stream.first_bytes(left, least)
        while len(first_bytes) >= least and may_become_http(first_bytes):
            left, least = deadline - loop.time(), len(first_bytes) + 1
            first_bytes = await stream.first_bytes(left, least)
        if not looks_like_http(first_bytes):
            page = b""
        elif wants_head_only(first_bytes):
            page = without_body(page)
        self._carrier.finish(stream, page)

    def _begins(self, destination: Destination, visit: Visit) -> None:
        destination.visits.add(visit)
        self._running[visit] = destination
        self._idle.clear()

    def _over(self, destination: Destination, visit: Visit, end: VisitEnd) -> None:
        self.outcomes[end.outcome.value] += 1
        destination.visits.discard(visit)
        del self._running[visit]
        self._ended_one.set()
        if not self._running:
            self._idle.set()


def _refusal(tunnel: Tunnel, end: VisitEnd) -> RefusalReason:
    """The reason for the node that forwarded the visitor: a client that is away may be at another node by now."""
    if end.outcome is not Outcome.NO_LANE:
        return end.reason
    return RefusalReason.OVERLOADED if tunnel.live else RefusalReason.NOT_HERE


def _is_unreached(arrival: _Arrival, end: VisitEnd) -> bool:
    """Whether another node has seen nothing of the visit, and has refused nothing."""
    to_other_node = not isinstance(arrival.destination, Tunnel)
    return to_other_node and end.outcome in (Outcome.NO_LANE, Outcome.UNREACHED)
