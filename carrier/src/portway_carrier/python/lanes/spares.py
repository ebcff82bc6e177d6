"""Spare lanes of a pool that dials: how many to keep, when to dial, when to let go (DESIGN §4, "Idle lanes")."""

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from portway_carrier.errors import CarrierError, HandshakeFailed
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.values import DialTarget, SpareSizes

if TYPE_CHECKING:
    from portway_carrier.python.carrier import PythonCarrier
    from portway_carrier.python.lanes.pool import PyPool

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


class Spares:
    """Keeps `pool` supplied. Demand is what was used at once within the last `shrink_after` seconds: lanes that
    were idle throughout them are let go, down to the size for the time being."""

    def __init__(
        self,
        carrier: "PythonCarrier",
        pool: "PyPool",
        target: DialTarget,
        sizes: SpareSizes,
        on_lost: Callable[[CarrierError], None],
    ) -> None:
        self.dialling = 0
        self._carrier = carrier
        self._pool = pool
        self.target = target
        self._sizes = sizes
        self._on_lost = on_lost
        self._wanted = 0  # asked for by the peer, above the spares, and not yet up
        self._scheduled = False
        self._closed = False
        self._pause = 0.0
        self._not_before = 0.0
        self._unreached_at: float | None = None  # when the last dial failed, if none has succeeded since
        self._retry: asyncio.TimerHandle | None = None
        self._fewest_idle = 0
        self._window_ends = carrier.loop.time() + sizes.shrink_after
        self.replenish()

    @property
    def hopeless(self) -> bool:
        """Whether a dial has failed just now, and no other one is under way."""
        failed = self._unreached_at
        return failed is not None and not self.dialling and self._carrier.loop.time() < failed + FIRST_PAUSE

    def want(self, lanes: int) -> None:
        self._wanted = min(lanes, self._sizes.lanes)
        self.replenish()

    def lane_used(self) -> None:
        self._fewest_idle = min(self._fewest_idle, len(self._pool.idle))
        self.replenish()

    def lane_gone(self, lane: PyLane, error: CarrierError) -> None:
        if lane.state.number == 0 and not lane.retiring:
            self._unreached_at = None  # it is there
            self._failed(error)  # its greeting was refused, and so would be the next one's
        else:
            self.replenish()

    def replenish(self) -> None:
        """Dial what is missing, once this turn of the loop is over."""
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._carrier.loop.call_soon(self._dial_missing)

    def sweep(self, now: float) -> None:
        if self._closed:
            return
        if now >= self._window_ends:
            surplus = self._fewest_idle - self._spare_size()
            if surplus > 0:
                self._pool.let_go_oldest(surplus)
            self._window_ends = now + self._sizes.shrink_after
            self._fewest_idle = len(self._pool.idle)
            self._wanted = 0
        if now >= self._not_before + LONGEST_PAUSE:
            self._pause = 0.0  # nothing has failed since
        self._dial_missing()

    def close(self) -> None:
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()

    def _spare_size(self) -> int:
        return self._sizes.busy if self._pool.visited else self._sizes.quiet

    def _dial_missing(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        most = self._sizes.dials
        if self._carrier.loop.time() < self._not_before:
            # A visitor who waits has it tried now, by one dial for all: whether the peer is back, or is to be given up.
            most = 1 if self._unreached_at is not None and self._pool.waiters else 0
        missing = max(0, self._spare_size() - len(self._pool.idle)) + self._wanted - self.dialling
        room = self._sizes.lanes - len(self._pool.lanes) - self.dialling
        for _ in range(min(missing, room, most - self.dialling)):
            self.dialling += 1
            self._carrier.tasks.spawn(self._dial(), name="dial a lane")

    async def _dial(self) -> None:
        lane: PyLane | None = None
        failure: CarrierError | None = None
        try:
            lane = await self._lane()
        except CarrierError as error:
            failure = error
        finally:
            self.dialling -= 1
        if lane is None:
            assert failure is not None
            self._unreached_at = self._carrier.loop.time()
            self._failed(failure)
            self._pool.give_up_if_hopeless()
            return
        if self._unreached_at is not None:
            self._unreached_at, self._not_before = None, 0.0
        self._wanted = max(0, self._wanted - 1)
        self._pool.park(lane)
        self.replenish()

    async def _lane(self) -> PyLane:
        """One that has sent its greeting. Raises CarrierError."""
        target = self.target
        stream = self._carrier.connect(target.address, target.tls)
        try:
            handshake = await stream.ready()
            if handshake.alpn != target.tls.alpn:
                raise HandshakeFailed(f"{target.address} does not speak {target.tls.alpn}: it is no relay node")
            lane = self._carrier.lane_of(stream, self._pool.side)
        except BaseException:
            stream.abort()
            raise
        lane.send(*target.greeting)
        return lane

    def _failed(self, error: CarrierError) -> None:
        if self._closed:
            return
        now = self._carrier.loop.time()
        if now >= self._not_before:  # the first of several dials that failed together
            self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, self._pause * 2))
            self._not_before = now + self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries only
            self._retry = self._carrier.loop.call_at(self._not_before, self.replenish)
        self._carrier.tell(self._pool.close, self._on_lost, error)
