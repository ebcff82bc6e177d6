"""The core of a Python carrier: what every connection, lane, pool, visit and timer of it shares.

The carrier makes its core first and passes it to each part. Here: the event loop, limits, read buffers, background
tasks, the sets of live objects, counters, callbacks to the carrier's caller. Not here: any class of a part. The
protocols below state what liveness, counters and the carrier's close ask of the members of each set.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from typing import ParamSpec, Protocol

from portway_proto.wire.lane import LaneState
from portway_runtime.tasks import Tasks

from portway_carrier.errors import CarrierError
from portway_carrier.python.core.buffers import ReadBuffer, ciphertext_buffer
from portway_carrier.values import Counters, Limits

logger = logging.getLogger(__name__)

P = ParamSpec("P")


class LiveConnection(Protocol):
    """A connection that has a transport; closing ones included."""

    transport: asyncio.Transport | None

    def is_closing(self) -> bool: ...

    def drop(self) -> None: ...


class LiveStream(LiveConnection, Protocol):
    """A stream whose end has not been reported; streams that are still being established included."""

    def abort(self) -> None: ...

    def failed(self, error: CarrierError) -> None: ...


class LiveLane(LiveConnection, Protocol):
    """A lane whose end has not been reported. Times are the event loop's."""

    state: LaneState
    silent_since: float
    unanswered_pings: int
    reset_sent_at: float | None
    open_sent_at: float | None

    def send(self, frame_type: int, payload: bytes = b"") -> None: ...

    def open_unanswered(self) -> None: ...

    def abort(self, error: CarrierError | None = None) -> None: ...


class LivePool(Protocol):
    """A pool that is open, or retired with lanes that still have visits."""

    def sweep(self, now: float) -> None: ...

    def close(self) -> None: ...


class LiveVisit(Protocol):
    """A visit that has not ended."""

    @property
    def bytes_in(self) -> int: ...

    @property
    def bytes_out(self) -> int: ...


class Core:
    """One for each carrier, made on its running event loop."""

    __slots__ = (
        "ciphertext",
        "connections",
        "lanes",
        "limits",
        "loop",
        "pools",
        "read_buffer",
        "streams",
        "tasks",
        "totals",
        "visits",
    )

    def __init__(self, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.read_buffer = ReadBuffer()
        self.ciphertext = ciphertext_buffer()
        self.tasks = Tasks("carrier")
        self.connections: set[LiveConnection] = set()
        self.streams: set[LiveStream] = set()
        self.lanes: set[LiveLane] = set()
        self.pools: set[LivePool] = set()
        self.visits: set[LiveVisit] = set()
        self.totals = Counters()  # its bytes are those of visits that have ended

    def counters(self) -> Counters:
        """The totals, with the bytes of visits that are running added."""
        totals = self.totals
        return dataclasses.replace(
            totals,
            bytes_in=totals.bytes_in + sum(visit.bytes_in for visit in self.visits),
            bytes_out=totals.bytes_out + sum(visit.bytes_out for visit in self.visits),
        )

    def lane_opened(self, lane: LiveLane) -> None:
        self.lanes.add(lane)
        self.totals.lanes_opened += 1

    def lane_closed(self, lane: LiveLane) -> None:
        self.lanes.discard(lane)
        self.totals.lanes_closed += 1

    def visit_started(self, visit: LiveVisit) -> None:
        self.visits.add(visit)
        self.totals.visits_started += 1

    def visit_ended(self, visit: LiveVisit) -> None:
        """Idempotent."""
        if visit in self.visits:
            self.visits.discard(visit)
            self.totals.visits_ended += 1
            self.totals.bytes_in += visit.bytes_in
            self.totals.bytes_out += visit.bytes_out

    def notify(
        self,
        on_failure: Callable[[], None] | None,
        callback: Callable[P, None],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> None:
        """Call `callback` on a later turn of the loop. If it raises, the exception is logged and `on_failure` closes
        the object that the callback concerned."""
        self.loop.call_soon(_call, on_failure, lambda: callback(*arguments, **keywords))


def _call(on_failure: Callable[[], None] | None, callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("a callback failed")
        if on_failure is not None:
            on_failure()
