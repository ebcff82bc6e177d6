"""Spare lanes: how many idle lanes a dialling pool keeps, when it dials more, and when it releases surplus ones."""

import asyncio
from collections.abc import Callable, Sized
from typing import Final, Protocol

from portway_proto.wire.frames import Opening
from portway_proto.wire.lane import Side
from portway_runtime.backoff import Backoff
from portway_runtime.endpoints import Endpoint

from portway_carrier.contract import Lane
from portway_carrier.errors import CarrierError, HandshakeFailed
from portway_carrier.python.core.core import Core
from portway_carrier.python.lanes.lane import PyLane, frame_stream
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.values import ClientTls, DialTarget, SpareSizes

# Seconds between dials that fail: from the first pause, doubling, up to the longest.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


class SuppliedPool(Protocol):
    """The pool that spares supply with lanes."""

    side: Side
    visited: bool  # a lane has been used for a visit
    lanes: set[PyLane]
    idle: dict[PyLane, None]

    @property
    def waiters(self) -> Sized:
        """Visits that wait for a lane."""
        ...

    def park(self, lane: Lane) -> None: ...

    def release_oldest(self, count: int) -> None: ...

    def fail_waiters_if_unreachable(self) -> None: ...

    def close(self) -> None: ...


class _DiallingEvents:
    """The events of a lane that was dialled and is not in its pool yet: the peer may send nothing."""

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        lane.abort()

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.abort()

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        """Parking a lane that is closed has no effect."""


class Spares:
    """Keeps `pool` supplied with idle lanes, beginning now.

    Demand is the greatest number of lanes in use at one time within the last `shrink_after` seconds: lanes that stayed
    idle throughout are released, down to the size that `sizes` gives.
    """

    def __init__(
        self,
        core: Core,
        connect: Callable[[Endpoint, ClientTls], PyStream],
        target: DialTarget,
        sizes: SpareSizes,
        on_lost: Callable[[CarrierError], None],
        pool: SuppliedPool,
    ) -> None:
        self.target = target
        self.dialling = 0
        self._core = core
        self._connect = connect
        self._sizes = sizes
        self._on_lost = on_lost
        self._pool = pool
        self._wanted = 0  # lanes requested beside the spare ones, and not established yet
        self._dial_scheduled = False
        self._closed = False
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._retry_at = 0.0
        self._retry_timer: asyncio.TimerHandle | None = None
        self._failed_at: float | None = None  # when the last dial failed; None once one has succeeded
        self._fewest_idle = 0  # within the current window of `shrink_after` seconds
        self._window_ends = core.loop.time() + sizes.shrink_after
        self.replenish()

    @property
    def unreachable(self) -> bool:
        """Whether a dial has failed within the last FIRST_PAUSE seconds, and no other is in progress."""
        failed_at = self._failed_at
        return failed_at is not None and not self.dialling and self._core.loop.time() < failed_at + FIRST_PAUSE

    def want(self, lanes: int) -> None:
        """Dial `lanes` more than the spare ones. The number replaces that of an earlier call."""
        self._wanted = min(lanes, self._sizes.lanes)
        self.replenish()

    def lane_used(self) -> None:
        """A visit has taken an idle lane."""
        self._fewest_idle = min(self._fewest_idle, len(self._pool.idle))
        self.replenish()

    def lane_closed(self, lane: PyLane, error: CarrierError) -> None:
        if lane.state.number == 0 and not lane.retiring:
            self._failed_at = None  # the peer was reached,
            self._failed(error)  # but refused the greeting, and would refuse the next
        else:
            self.replenish()

    def replenish(self) -> None:
        """Dial the lanes that are missing, on the next turn of the loop."""
        if not self._dial_scheduled and not self._closed:
            self._dial_scheduled = True
            self._core.loop.call_soon(self._dial_missing)

    def sweep(self, now: float) -> None:
        """Called once a second: release surplus lanes, dial missing ones."""
        if self._closed:
            return
        if now >= self._window_ends:
            surplus = self._fewest_idle - self._spare_size()
            if surplus > 0:
                self._pool.release_oldest(surplus)
            self._window_ends = now + self._sizes.shrink_after
            self._fewest_idle = len(self._pool.idle)
            self._wanted = 0
        if now >= self._retry_at + LONGEST_PAUSE:
            self._backoff.reset()  # no dial has failed since
        self._dial_missing()

    def close(self) -> None:
        """Dial no more. Dials in progress end by themselves; their lanes are closed when they are parked."""
        self._closed = True
        if self._retry_timer is not None:
            self._retry_timer.cancel()

    def _spare_size(self) -> int:
        return self._sizes.busy if self._pool.visited else self._sizes.quiet

    def _dial_missing(self) -> None:
        self._dial_scheduled = False
        if self._closed:
            return
        dials = self._sizes.dials
        if self._core.loop.time() < self._retry_at:
            # A visit that waits does not wait for the pause: one dial, for all of them, tells whether the peer is back.
            dials = 1 if self._failed_at is not None and self._pool.waiters else 0
        missing = max(0, self._spare_size() - len(self._pool.idle)) + self._wanted - self.dialling
        room = self._sizes.lanes - len(self._pool.lanes) - self.dialling
        for _ in range(min(missing, room, dials - self.dialling)):
            self.dialling += 1
            self._core.tasks.spawn(self._dial(), name="dial a lane")

    async def _dial(self) -> None:
        lane: PyLane | None = None
        failure: CarrierError | None = None
        try:
            lane = await self._greeted_lane()
        except CarrierError as error:
            failure = error
        finally:
            self.dialling -= 1
        if lane is None:
            assert failure is not None
            self._failed_at = self._core.loop.time()
            self._failed(failure)
            self._pool.fail_waiters_if_unreachable()
            return
        if self._failed_at is not None:
            self._failed_at, self._retry_at = None, 0.0
        self._wanted = max(0, self._wanted - 1)
        self._pool.park(lane)
        self.replenish()

    async def _greeted_lane(self) -> PyLane:
        """A new lane whose greeting was sent. Raises CarrierError."""
        target = self.target
        stream = self._connect(target.address, target.tls)
        try:
            handshake = await stream.ready()
            if handshake.alpn != target.tls.alpn:
                raise HandshakeFailed(f"{target.address} does not speak {target.tls.alpn}: it is not a relay node")
            lane = frame_stream(stream, self._pool.side, _DiallingEvents())
        except BaseException:
            stream.abort()
            raise
        lane.send(*target.greeting)
        return lane

    def _failed(self, error: CarrierError) -> None:
        if self._closed:
            return
        now = self._core.loop.time()
        if now >= self._retry_at:  # else it is one of several dials that failed together
            self._retry_at = now + self._backoff.next()
            self._retry_timer = self._core.loop.call_at(self._retry_at, self.replenish)
        self._core.notify(self._pool.close, self._on_lost, error)
