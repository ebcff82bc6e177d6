"""The contract of a carrier: who moves what, what each call raises, what it leaves behind (DESIGN §5).

A carrier owns sockets, TLS, frames and the timers of streams and lanes; it decides nothing. Whoever calls it decides
whose visit it is and where it goes, and never sees a frame of a visit that runs. Two things follow:

* after `join` (or an OPEN that `serve` takes) no byte of a visit passes through the caller until the visit is over;
* callbacks bring control frames, openings that nobody serves, and ends: never data.

Every call is made on the thread of the carrier's event loop; every callback and every awaitable comes back on it.
No call blocks. Callbacks are never made from inside the call that caused them, and must not raise; one that does is
logged and the object it concerns is closed. Closing, cutting and aborting may be repeated and never raise.
"""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from portway_proto.wire.frames import Opening, RefusalReason
from portway_proto.wire.lane import Side
from portway_runtime.endpoints import Endpoint

from portway_carrier.errors import CarrierError
from portway_carrier.values import ClientTls, DialTarget, Handshake, PoolLimits, ServerTls, SpareSizes


class Stream(Protocol):
    """A connection with a visitor or a local server: bytes both ways, TLS already dealt with.

    A stream that was joined or finished belongs to the carrier alone, until a refused visit hands it back.
    """

    @property
    def peer(self) -> Endpoint:
        """The other end, as its socket names it."""
        ...

    async def ready(self) -> Handshake:
        """Wait until it can carry bytes. Raises ConnectFailed, HandshakeFailed, ConnectionLost; then it is closed."""
        ...

    async def first_bytes(self, within: float) -> bytes:
        """What it sent so far and nobody has taken, once there is some, it ended, or `within` seconds passed.

        The bytes stay: a join sends them. At most MAX_KEPT of them.
        """
        ...

    def abort(self) -> None:
        """Drop the connection now, without flushing. Over plain TCP the peer sees a reset: what it has got may not
        look whole."""
        ...


class Lane(Protocol):
    """A framed connection, either control lane or data lane, on either side."""

    @property
    def peer(self) -> Endpoint: ...

    def send(self, frame_type: int, payload: bytes = b"") -> None:
        """Send a frame that is not a visit's. Nothing is raised on a lane that is closed or closing: its
        `lane_closed` tells. Raises ValueError when the payload is over its type's limit."""
        ...

    def refuse(self, reason: RefusalReason, message: str = "") -> None:
        """Answer the opening that `opening_received` brought. No effect when the opener has given up since."""
        ...

    def fail(self, payload: bytes) -> None:
        """Send FAIL with this payload (portway.v1.Failure) and close."""
        ...

    def close(self) -> None:
        """Send what waits to be sent, then close; a visit on it is cut. At most Limits.linger."""
        ...

    def abort(self) -> None:
        """Drop it now."""
        ...


class LaneEvents(Protocol):
    """What a lane's owner is told. A lane taken by `park` or `serve` tells its pool instead."""

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        """A control frame; PING, PONG, RETIRE and a visit's frames never come here."""
        ...

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        """An OPEN that no `serve` takes. The lane stands still until `join` or `refuse`."""
        ...

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        """It is over, once, whoever closed it. ConnectionLost(clean=True) when nothing went wrong."""
        ...


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """A pool as it stands: idle lanes, lanes with a visit, visitors without a lane, lanes being dialled."""

    idle: int
    busy: int
    waiting: int
    dialling: int = 0


class Pool(Protocol):
    """The lanes of one peer."""

    @property
    def counts(self) -> PoolCounts: ...

    def park(self, lane: Lane) -> None:
        """Give it a lane whose greeting was accepted. A pool that has its fill closes the lane."""
        ...

    def want(self, lanes: int) -> None:
        """A dialling pool: so many visitors wait at the peer for a lane. So many are dialled beside the spare ones;
        what an earlier call asked for and has not come is among them."""
        ...

    def aim(self, target: DialTarget) -> None:
        """A dialling pool: lanes are dialled so from now on. Those that are up stay, and so do visits."""
        ...

    def attach_control(self, control: Lane | None) -> None:
        """From now on WANT goes out on `control`. None: there is none, a visitor that finds no idle lane ends with
        NO_LANE at once."""
        ...

    def retire(self) -> None:
        """Let go of idle lanes and dial no more; visits that run go on, and their lanes are let go after them.
        Visitors that wait for a lane end with Outcome.NO_LANE. The opener closes lanes; the acceptor asks it to, and
        serves an OPEN that crosses the request."""
        ...

    def close(self) -> None:
        """Retire, cut every visit, close every lane."""
        ...


class Outcome(Enum):
    """How a visit ended."""

    DONE = "done"  # both directions ended
    RESET = "reset"  # one side broke off
    REFUSED = "refused"  # the other end did not take it; the visitor is handed back
    NO_LANE = "no_lane"  # no lane came within the limit, or the pool was closed; the visitor is handed back
    UNANSWERED = "unanswered"  # OPEN was not answered in time: bytes may have arrived; the visitor is handed back
    VISITOR_LOST = "visitor_lost"  # gone before it was opened: broke off, or its handshake failed
    LANE_LOST = "lane_lost"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class VisitEnd:
    """The end of a visit. `visitor` is set exactly for REFUSED, NO_LANE and UNANSWERED, whole: to be joined elsewhere
    (not after UNANSWERED), finished or aborted (None when it left in the meantime)."""

    outcome: Outcome
    reason: RefusalReason = RefusalReason.OTHER
    message: str = ""
    visitor: "Stream | Lane | None" = None


class Visit(Protocol):
    """A visit from `join` to its end."""

    @property
    def opening(self) -> Opening: ...

    @property
    def bytes_in(self) -> int:
        """From the visitor, so far."""
        ...

    @property
    def bytes_out(self) -> int:
        """To the visitor, so far."""
        ...

    def cut(self) -> None:
        """End it now: both sides are reset. Its end is told with Outcome.CUT."""
        ...


VisitEnded = Callable[[Visit, VisitEnd], None]


@dataclass(frozen=True, slots=True)
class LocalService:
    """What a label leads to on the client's side: `host` None is this machine, 127.0.0.1 and then ::1."""

    port: int
    host: str | None = None


class ServeEvents(Protocol):
    """What a serving client may want to know of its visits."""

    def visit_refused(self, opening: Opening, reason: RefusalReason, message: str) -> None:
        """It was not connected; `message` says to what, and why not."""
        ...


@dataclass(slots=True)
class Counters:
    """Read by metrics at scrape; written by the carrier. Bytes are those of visits: in from visitors, out to them,
    whichever side of the lane this process is on. A handshake that the peer gave up has neither come to be nor failed.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    visits_started: int = 0
    visits_ended: int = 0
    handshakes: int = 0
    handshakes_failed: int = 0
    lanes_opened: int = 0
    lanes_closed: int = 0


class Carrier(Protocol):
    """One in a process; made on a running loop."""

    @property
    def name(self) -> str:
        """`python` or `native`."""
        ...

    @property
    def counters(self) -> Counters: ...

    def accept(self, sock: socket.socket, tls: ServerTls | None) -> Stream:
        """Own this connected socket, of which nothing was consumed, as a server. Raises TlsSettingsError at once for
        settings that cannot be used, the socket being closed then; all else is told by the stream."""
        ...

    def connect(self, address: Endpoint, tls: ClientTls | None) -> Stream:
        """Dial. Raises TlsSettingsError as accept; all else is told by the stream."""
        ...

    def lane(self, stream: Stream, side: Side, events: LaneEvents) -> Lane:
        """Frame a stream that is ready (after `ready`, nothing of it read). Liveness runs from here on.

        Raises CarrierError when the connection was lost meanwhile; the stream is closed then.
        """
        ...

    def pool(self, control: Lane | None, limits: PoolLimits) -> Pool:
        """The opener's pool, filled by `park`. WANT goes out on `control`, and `Pool.attach_control`
        replaces it when a session is resumed."""
        ...

    def dialling_pool(
        self, target: DialTarget, side: Side, sizes: SpareSizes, on_lost: Callable[[CarrierError], None]
    ) -> Pool:
        """A pool that keeps spare lanes by itself, beginning now. Dials that fail are tried again with growing pauses,
        and so are lanes that end before their first visit; `on_lost` is told each failure.

        A visitor that waits does not wait for those pauses: the peer is dialled at once, by one dial for all of them.
        When that fails, and no lane to the peer is left, all who wait end with Outcome.NO_LANE there and then.
        """
        ...

    def join(self, visitor: Stream | Lane, pool: Pool, opening: Opening, ended: VisitEnded) -> Visit:
        """Give the visitor an idle lane of `pool` and move bytes until both directions have ended.

        The visitor is a stream, before or after its handshake, or the lane of an unanswered opening. When it is
        ready OPEN goes out, without waiting for its first bytes; what it sends is kept (at most MAX_KEPT, then it is
        not read) until OPENED. `ended` is called once. The lane goes back to its pool by itself. A visitor that
        ended its direction in order before it left is still delivered whole. Raises ValueError for an opening that
        OPEN cannot say; the visitor is untouched then.
        """
        ...

    def serve(self, pool: Pool, table: Mapping[str, LocalService], events: ServeEvents | None = None) -> None:
        """The acceptor's side: an OPEN on a lane of `pool` for a label in `table` dials its local service, then
        OPENED or REFUSED(UNREACHABLE), or REFUSED(OVERLOADED) where this process can open no more sockets; a label not
        in it is REFUSED(NOT_HERE). The table is read at each OPEN and may change."""
        ...

    def finish(self, stream: Stream, data: bytes) -> None:
        """Write these last bytes, end the connection properly, drop it after Limits.linger at the latest."""
        ...

    async def close(self, linger: float = 0.0) -> None:
        """Abort everything this carrier owns and wait until it is gone.

        What is being closed already gets `linger` seconds, at the most, for its last bytes to leave.
        """
        ...

    def abandon(self) -> None:
        """In a forked child, for the parent's carrier: let go of every descriptor it inherited, and of nothing else.

        The one call that is not made on the loop. The parent goes on as if there were no child: nothing is said on
        a connection, no call reaches the loop (its epoll set is shared). The carrier and what came from it are of
        no use in the child afterwards, and the caller keeps them referenced so that nothing closes a number twice.
        """
        ...
