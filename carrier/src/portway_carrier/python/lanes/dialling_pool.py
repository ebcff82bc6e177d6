"""A pool that dials its lanes: how many idle ones it keeps, when it dials more, and when it releases surplus ones.

Demand is the greatest number of lanes in use at one time within the last `shrink_after` seconds: lanes that stayed idle
throughout are surplus, down to the number of spare lanes to keep.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from portway_proto.wire.frames import Opening
from portway_proto.wire.lane import Side
from portway_runtime.backoff import Backoff
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxies import Proxy

from portway_carrier.contract import Lane
from portway_carrier.errors import CarrierError, ConnectionLost, HandshakeFailed
from portway_carrier.python.core.core import Core
from portway_carrier.python.lanes.framing import frame_stream
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.lanes.pool import PyPool
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.values import ClientTls, DialTarget, PoolCounts, PoolLimits, SpareSizes

# Seconds between dials that fail: from the first pause, doubling, up to the longest.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
_UNREACHABLE: Final = "the node cannot be reached"


class _DiallingEvents:
    """The events of a lane that was dialled and is not in its pool yet: the peer may send nothing."""

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        lane.abort()

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.abort()

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        """Parking a lane that is closed has no effect."""


class DiallingPool(PyPool):
    """Dials lanes to `target` until it is retired, beginning on the next turn of the loop."""

    marks_openings = True  # its peer, a node, acknowledges an OPEN before it passes it on

    def __init__(
        self,
        core: Core,
        side: Side,
        sizes: SpareSizes,
        target: DialTarget,
        connect: Callable[[Endpoint, ClientTls, Proxy | None], PyStream],
        on_lost: Callable[[CarrierError], None],
    ) -> None:
        """`on_lost` is called with each dial that fails, and each lane that ends before its first visit."""
        super().__init__(core, side, PoolLimits(lanes=sizes.lanes, wait=sizes.wait))
        self._sizes = sizes
        self._target = target
        self._connect = connect
        self._on_lost = on_lost
        self._dialling = 0
        self._dial_scheduled = False
        self._wanted = 0  # lanes to dial beside the spare ones
        self._visited = False
        self._fewest_idle = 0  # within the current window of `shrink_after` seconds
        self._window_ends = core.loop.time() + sizes.shrink_after
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._retry_at = 0.0
        self._retry_timer: asyncio.TimerHandle | None = None
        self._failed_at: float | None = None  # when the last dial failed; None once one has succeeded
        self._replenish()

    @property
    def counts(self) -> PoolCounts:
        return PoolCounts(len(self.idle), len(self.lanes) - len(self.idle), len(self.waiters), self._dialling)

    def want(self, lanes: int) -> None:
        self._wanted = min(lanes, self._sizes.lanes)
        self._replenish()

    def aim(self, target: DialTarget) -> None:
        self._target = target

    def attach_control(self, control: Lane | None) -> None:
        """No effect: this pool dials, and sends no WANT."""

    def retire(self) -> None:
        """Dials in progress end by themselves; their lanes are closed before they are greeted."""
        super().retire()
        if self._retry_timer is not None:
            self._retry_timer.cancel()

    def lane_closed(self, lane: PyLane, error: CarrierError) -> None:
        super().lane_closed(lane, error)
        if self.closed:
            return
        if lane.state.number == 0 and not lane.retiring:
            self._failed_at = None  # the peer was reached,
            self._failed(error)  # but refused the greeting, and would refuse the next
        else:
            self._replenish()
        self._fail_waiters_if_unreachable()

    def sweep(self, now: float) -> None:
        super().sweep(now)
        if self.closed:
            return
        if now >= self._window_ends:
            self._release_surplus()
            self._window_ends = now + self._sizes.shrink_after
            self._fewest_idle = len(self.idle)
            self._wanted = 0
        if now >= self._retry_at + LONGEST_PAUSE:
            self._backoff.reset()  # no dial has failed since
        self._dial_missing()

    def _obstacle(self) -> str | None:
        """Set while a dial has failed within the last FIRST_PAUSE seconds, no other is in progress, and no lane is
        left."""
        failed_at = self._failed_at
        if failed_at is None or self._dialling or self.lanes or self.core.loop.time() >= failed_at + FIRST_PAUSE:
            return None
        return _UNREACHABLE

    def _request(self, lanes: int) -> None:
        self.want(lanes)

    def _lane_used(self) -> None:
        self._visited = True
        self._fewest_idle = min(self._fewest_idle, len(self.idle))
        self._replenish()

    def _fail_waiters_if_unreachable(self) -> None:
        """No visit waits for a peer that cannot be reached: another peer may take it."""
        obstacle = self._obstacle()
        if obstacle is not None:
            self.want(0)
            self._fail_waiters(obstacle)

    @property
    def _spare_size(self) -> int:
        return self._sizes.busy if self._visited else self._sizes.quiet

    def _release_surplus(self) -> None:
        """Those that have been idle longest first."""
        surplus = max(0, self._fewest_idle - self._spare_size)
        for lane in [lane for lane in self.idle if not lane.retiring][:surplus]:
            self._release(lane)

    def _replenish(self) -> None:
        """Dial the lanes that are missing, on the next turn of the loop."""
        if not self._dial_scheduled and not self.closed:
            self._dial_scheduled = True
            self.core.loop.call_soon(self._dial_missing)

    def _dial_missing(self) -> None:
        self._dial_scheduled = False
        if self.closed:
            return
        dials = self._sizes.dials
        if self.core.loop.time() < self._retry_at:
            # A visit that waits does not wait for the pause: one dial, for all of them, shows whether the peer is back.
            dials = 1 if self._failed_at is not None and self.waiters else 0
        missing = max(0, self._spare_size - len(self.idle)) + self._wanted - self._dialling
        room = self._sizes.lanes - len(self.lanes) - self._dialling
        for _ in range(min(missing, room, dials - self._dialling)):
            self._dialling += 1
            self.core.tasks.spawn(self._dial(), name="dial a lane")

    async def _dial(self) -> None:
        lane: PyLane | None = None
        failure: CarrierError | None = None
        try:
            lane = await self._greeted_lane()
        except CarrierError as error:
            failure = error
        finally:
            self._dialling -= 1
        if lane is None:
            assert failure is not None
            self._failed_at = self.core.loop.time()
            self._failed(failure)
            self._fail_waiters_if_unreachable()
            return
        if self._failed_at is not None:
            self._failed_at, self._retry_at = None, 0.0
        self._wanted = max(0, self._wanted - 1)
        self.park(lane)
        self._replenish()

    async def _greeted_lane(self) -> PyLane:
        """A new lane whose greeting was sent. Raises CarrierError."""
        target = self._target
        stream = self._connect(target.address, target.tls, target.via)
        try:
            handshake = await stream.ready()
            if handshake.alpn != target.tls.alpn:
                raise HandshakeFailed(f"{target.address} does not speak {target.tls.alpn}: it is not a relay node")
            if self.closed:
                # Parked and closed, it would take a visitor along that the peer has given it meanwhile.
                raise ConnectionLost("it is not needed any more", clean=True)
            lane = frame_stream(stream, self.side, _DiallingEvents())
        except BaseException:
            stream.abort()
            raise
        lane.send(*target.greeting)
        return lane

    def _failed(self, error: CarrierError) -> None:
        if self.closed:
            return
        now = self.core.loop.time()
        if now >= self._retry_at:  # else it is one of several dials that failed together
            self._retry_at = now + self._backoff.next()
            self._retry_timer = self.core.loop.call_at(self._retry_at, self._replenish)
        self.core.notify(self.close, self._on_lost, error)
