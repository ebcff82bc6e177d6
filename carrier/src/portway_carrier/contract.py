"""The contract of a carrier: what each call does, what it raises, what it leaves behind.

A carrier owns sockets, TLS, frames, and the timers of streams and lanes; it takes no decisions. Its caller decides
which peer a visit goes to, and never sees the frames of a visit that runs:

* from `join` on (or from an OPEN that `serve` takes) no byte of a visit passes through the caller until its end;
* callbacks bring control frames, openings that no `serve` takes, and ends: never data.

All calls are made on the thread of the carrier's event loop, except `Carrier.abandon`; all callbacks and awaitables
come back on it. No call blocks. A callback never runs inside the call that caused it, and must not raise: one that does
is logged, and the object that it concerns is closed. Closing, cutting and aborting are idempotent and never raise.
Cancelling `Stream.ready` or `Stream.first_bytes` ends only the wait. `Carrier.close` may be called again.
"""

import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from portway_proto.wire.frames import Opening, RefusalReason
from portway_proto.wire.lane import Side
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxies import Proxy

from portway_carrier.errors import CarrierError
from portway_carrier.values import (
    ClientTls,
    Counters,
    DialTarget,
    Handshake,
    LocalService,
    Outcome,
    PoolCounts,
    PoolLimits,
    ServerTls,
    SpareSizes,
)


class Stream(Protocol):
    """A connection with a visitor or a local server: plaintext bytes in both directions, over TLS or not.

    A stream that was joined or finished belongs to the carrier alone, until a refused visit hands it back.
    """

    @property
    def peer(self) -> Endpoint:
        """The address of the other end: what `Carrier.accept` was told, or else what the socket reports."""
        ...

    async def ready(self) -> Handshake:
        """Wait until the stream can carry bytes. Raises ConnectFailed, HandshakeFailed or ConnectionLost, after which
        the stream is closed."""
        ...

    async def first_bytes(self, within: float, least: int = 1) -> bytes:
        """Wait until the peer has sent `least` bytes, MAX_KEPT at most, or ended, or for `within` seconds; what it has
        sent so far, at most MAX_KEPT bytes. The bytes are not consumed: a join sends them."""
        ...

    def abort(self) -> None:
        """Drop the connection now, without flushing. Over plain TCP the peer gets a reset, so that a truncated answer
        does not look complete."""
        ...


class FrameBudget(Protocol):
    """What the frames of a lane that belong to no visit are charged to."""

    @property
    def unread(self) -> int: ...  # bytes, some, that may wait in the system for a lane that is not read

    def charge(self, frames: int, size: int) -> float:
        """Charge frames that were received together, and their bytes. Bytes of frames that are skipped are in `size`
        alone. Returns the seconds for which the lane must not be read; 0 for none."""
        ...


class Lane(Protocol):
    """A framed connection, control lane or data lane, on either side."""

    @property
    def peer(self) -> Endpoint: ...

    def send(self, frame_type: int, payload: bytes = b"") -> None:
        """Send a frame that does not belong to a visit. Raises ValueError when the payload is over its type's limit.
        On a lane that is closed or closing it has no effect: `lane_closed` reports the end."""
        ...

    def charge_to(self, budget: FrameBudget) -> None:
        """Charge what the peer sends outside visits to `budget` from now on: PINGs as well, which are answered here,
        and never DATA. A lane above it is left unread, and its peer is sent PINGs; one that would be left so for
        longer than Limits.ping_interval is closed with ProtocolViolation."""
        ...

    def refuse(self, reason: RefusalReason, message: str = "") -> None:
        """Answer the opening that `opening_received` brought. No effect when the opener has given up meanwhile."""
        ...

    def fail(self, payload: bytes) -> None:
        """Send FAIL with this payload (portway.v1.Failure) and close."""
        ...

    def close(self) -> None:
        """Flush, then close; a visit on it is cut. Bytes that do not leave within Limits.linger are dropped."""
        ...

    def abort(self) -> None:
        """Drop the connection now."""
        ...


class LaneEvents(Protocol):
    """The callbacks of a lane's owner. A lane that was parked notifies its pool instead, and these no longer."""

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        """A control frame. PING, PONG, RETIRE and the frames of visits are handled by the carrier."""
        ...

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        """An OPEN that no `serve` takes. The lane does nothing more until `join` or `refuse`."""
        ...

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        """The lane is over. Called once, whichever side closed it; with ConnectionLost(clean=True) when this side
        called `close`."""
        ...


class Pool(Protocol):
    """The lanes of one peer."""

    @property
    def counts(self) -> PoolCounts: ...

    def park(self, lane: Lane) -> None:
        """Add a lane whose greeting was accepted. A pool that is full or retired closes the lane."""
        ...

    def want(self, lanes: int) -> None:
        """Dialling pool: dial `lanes` lanes beside the spare ones, because that many visitors wait at the peer. The
        number replaces that of an earlier call: lanes asked for then and still missing are part of it."""
        ...

    def aim(self, target: DialTarget) -> None:
        """Dialling pool: dial `target` from now on. Established lanes stay, and so do visits."""
        ...

    def attach_control(self, control: Lane | None) -> None:
        """Send WANT on `control` from now on. With None there is no control lane: a visitor that finds no idle lane
        ends with NO_LANE at once."""
        ...

    def retire(self) -> None:
        """Release idle lanes and dial no more. Running visits go on, and their lanes are released after them. Visitors
        that wait for a lane end with Outcome.NO_LANE. Only the opener closes idle lanes; the acceptor asks it to, and
        serves an OPEN that crosses the request."""
        ...

    def close(self) -> None:
        """Retire, cut every visit, close every lane."""
        ...


@dataclass(frozen=True, slots=True)
class VisitEnd:
    """The end of a visit.

    For REFUSED, NO_LANE, UNREACHED and UNANSWERED, `visitor` is handed back with nothing lost: to be joined elsewhere
    (not after UNANSWERED; after UNREACHED only where the peer's clients are by now), finished or aborted. It is None
    when the visitor left meanwhile, and for every other outcome.
    """

    outcome: Outcome
    reason: RefusalReason = RefusalReason.OTHER
    message: str = ""
    visitor: "Stream | Lane | None" = None


class Visit(Protocol):
    """A visit, from `join` to its end."""

    @property
    def opening(self) -> Opening: ...

    @property
    def bytes_in(self) -> int:
        """Bytes from the visitor so far."""
        ...

    @property
    def bytes_out(self) -> int:
        """Bytes to the visitor so far."""
        ...

    @property
    def buffered(self) -> int:
        """Bytes of it that wait in this process now: received, and not taken by the socket that they are for.
        Reading it costs a microsecond or two."""
        ...

    @property
    def unreached_for(self) -> float | None:
        """Seconds for which it has asked for a lane, or for which its OPEN has been on its way; 0.0 during the
        visitor's handshake. None once the kernel of the lane's peer has acknowledged OPEN, at its end, where the
        platform does not say, and for a pool that does not dial. Reading it costs a few microseconds."""
        ...

    def take_back(self) -> None:
        """If it is unreached (`unreached_for`), end it with the visitor handed back: with Outcome.NO_LANE when no OPEN
        was sent, else with UNREACHED, and its lane is dropped with a reset, so that nothing of it arrives later.
        Otherwise no effect."""
        ...

    def close(self) -> None:
        """End both directions in order, as if both sides had: what was sent is delivered, with its end, and the end is
        reported with Outcome.DONE. For a visit that moves nothing. One that is not opened yet is cut."""
        ...

    def cut(self) -> None:
        """End it now: both sides are reset, and the end is reported with Outcome.CUT."""
        ...


VisitEnded = Callable[[Visit, VisitEnd], None]


@dataclass(frozen=True, slots=True)
class PassageEnd:
    """The end of a passage.

    answered: whether a byte came back. If none did, and the far end was lost, ended or was silent, `visitor` is handed
    back with nothing lost: to be passed on elsewhere, finished or aborted. It is None when it left meanwhile.
    """

    answered: bool
    visitor: "Stream | None" = None


class Passage(Protocol):
    """A connection that is passed on as it is, from `pass_on` to its end."""

    @property
    def bytes_in(self) -> int:
        """Bytes from the visitor so far."""
        ...

    @property
    def bytes_out(self) -> int:
        """Bytes to the visitor so far."""
        ...

    @property
    def silence(self) -> float:
        """Seconds for which the far end has sent nothing since its last byte; once the visitor has ended or was lost,
        as of then. 0 before the first byte, and where the far end was the first to end."""
        ...

    def close(self) -> None:
        """End it now: what was received is delivered, and both connections are closed."""
        ...


PassageEnded = Callable[[Passage, PassageEnd], None]


class ServeEvents(Protocol):
    """The callbacks of a client that serves."""

    def visit_refused(self, opening: Opening, reason: RefusalReason, message: str) -> None:
        """A visit was refused; `message` names what was dialled and why that failed."""
        ...


class Carrier(Protocol):
    """One per process, made on a running event loop."""

    @property
    def name(self) -> str:
        """`python`; `native` is reserved."""
        ...

    @property
    def counters(self) -> Counters: ...

    def prepare(self, settings: Collection[ServerTls | ClientTls]) -> None:
        """Make what connections with these settings need, and keep it until the next call: `accept` and `connect` then
        do not fail for it, whatever has run out by then. A client's settings count for every `server_name`.

        Raises TlsSettingsError when one of them cannot be used; what was kept before then stays."""
        ...

    def accept(
        self,
        sock: socket.socket,
        tls: ServerTls | None,
        established: Callable[[], None] | None = None,
        *,
        peer: Endpoint | None = None,
    ) -> Stream:
        """A server's stream on a connected socket, of which no byte was consumed but a PROXY header, and which the
        carrier owns from now on. With `tls`, the handshake begins now. `established` is called once the stream is
        established, also when a visit has joined it, and never when the handshake fails. `peer` is whose connection it
        is, when a proxy in front passes it on.

        Raises TlsSettingsError, having closed the socket, when the settings cannot be used. All other failures are
        reported by the stream."""
        ...

    def connect(self, address: Endpoint, tls: ClientTls | None, via: Proxy | None = None) -> Stream:
        """A client's stream: `address` is dialled now. With `via`, and then with TLS alone, that proxy is dialled and
        asked to connect, and looks the name up. Raises TlsSettingsError when the settings cannot be used. All other
        failures are reported by the stream."""
        ...

    def lane(self, stream: Stream, side: Side, events: LaneEvents, *, greeted: bool = True) -> Lane:
        """A lane on the connection of a stream that is ready and was not joined. `side` is this process's end. The
        lane's liveness is watched from now on.

        Without `greeted` the peer has to send a first frame, which comes to `events`. Until then no PING is answered,
        and a lane on which more than one frame's bytes have arrived is closed with ProtocolViolation.

        Raises CarrierError, having closed the stream, when the connection was lost."""
        ...

    def pool(self, control: Lane | None, limits: PoolLimits) -> Pool:
        """An opener's pool, filled by `park`. WANT is sent on `control`, which `Pool.attach_control` replaces when a
        session is resumed."""
        ...

    def dialling_pool(
        self, target: DialTarget, side: Side, sizes: SpareSizes, on_lost: Callable[[CarrierError], None]
    ) -> Pool:
        """A pool that dials lanes to `target` by itself and keeps spare ones, from now on. `side` is this process's end
        of each lane.

        Dials that fail are repeated after growing pauses, and so are lanes that end before their first visit; `on_lost`
        is called with each failure. A visitor that waits does not wait for a pause: one dial is started at once for
        all of them. If it fails, and no lane to the peer is left, all waiting visitors end with Outcome.NO_LANE.
        """
        ...

    def join(self, visitor: Stream | Lane, pool: Pool, opening: Opening, ended: VisitEnded) -> Visit:
        """Give the visitor an idle lane of `pool` and move bytes until both directions have ended.

        `visitor` is a stream, before or after its handshake, or the lane of an unanswered opening. `opening` is what
        OPEN says of it; the version and the ALPN protocol of a stream's handshake are put in here. `ended` is called
        once, at the end of the visit; the lane returns to its pool by itself.

        OPEN is sent when the visitor is ready, without waiting for its first bytes. Bytes sent before OPENED are kept,
        at most MAX_KEPT, and then the visitor is not read until OPENED. A visitor that ends its direction in order and
        leaves is still delivered completely.

        With a dialling pool, a visit whose lane is lost before the peer's kernel has acknowledged OPEN ends with
        Outcome.UNREACHED. The acceptor of an OPEN that is joined to another pool acknowledges it first.

        Raises ValueError, with the visitor untouched, when OPEN cannot express `opening`.
        """
        ...

    def serve(self, pool: Pool, table: Mapping[str, LocalService], events: ServeEvents | None = None) -> None:
        """Take every OPEN on the lanes of `pool`, on the acceptor's side.

        `table` maps a label to its local server. It is read at each OPEN, and may change. The server is dialled, and
        the answer is OPENED, REFUSED(UNREACHABLE) if that fails, or REFUSED(OVERLOADED) if this process can open no
        more sockets. A label that is not in the table is REFUSED(NOT_HERE)."""
        ...

    def pass_on(self, visitor: Stream, far: Stream, header: bytes, within: float, ended: PassageEnded) -> Passage:
        """Send `header` to the far end, then what the visitor sends, and move bytes both ways, unread, until both
        directions have ended. It is no visit. Both streams are ready, and without TLS. `ended` is called once.

        Until a byte comes back, what the visitor sends is kept, at most about MAX_KEPT, and then it is not read. If the
        far end is lost or ends before, or says nothing for `within` seconds, the visitor is handed back. Afterwards the
        passage is over, too, when the visitor has ended and the far end has sent nothing for two seconds."""
        ...

    def finish(self, stream: Stream, data: bytes) -> None:
        """Write `data`, then end the connection in order. It is dropped after Limits.linger at the latest."""
        ...

    def drop_closing(self) -> None:
        """Drop every connection that is over and waits for its peer to take the last bytes."""
        ...

    async def close(self, linger: float = 0.0) -> None:
        """Abort everything that this carrier owns, and wait until it is gone. Connections that are already closing get
        up to `linger` seconds to flush."""
        ...

    def abandon(self) -> None:
        """In a forked child, for the parent's carrier: close the descriptors that the child has inherited, and do
        nothing else.

        The only call that is not made on the loop. The parent goes on undisturbed: nothing is sent on a connection,
        and the loop, whose epoll set parent and child share, is not touched. Neither the carrier nor anything made by
        it may be used in the child afterwards; the caller keeps a reference to it, so that no destructor closes a
        descriptor number a second time.
        """
        ...
