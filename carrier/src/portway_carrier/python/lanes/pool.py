"""A pool: the lanes of one peer. It knows which are idle, lends them to visits, and queues the visits that wait.

A pool is filled by `park`; when visits wait, it requests lanes from the peer with WANT. A pool that dials lanes itself
is a subclass (dialling_pool.py). What a served visit does is decided by the callable that `serve` is given.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from portway_proto.wire.frames import FrameType, Opening
from portway_proto.wire.lane import Side

from portway_carrier.contract import Lane
from portway_carrier.errors import CarrierError
from portway_carrier.python.core.core import Core
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.values import DialTarget, PoolCounts, PoolLimits

# portway.v1.Want has one field, a small number: it is encoded by hand so that carriers need no protobuf.
_WANT_FIELD: Final = 0x08
# Seconds until a request that brought no lane is repeated: lanes may have been dialled and lost on the way.
WANT_AGAIN: Final = 1.0
_NONE_FREE: Final = "no lane is free"


def encode_want(lanes: int) -> bytes:
    """The payload of WANT: field 1 as a protobuf varint."""
    payload = bytearray((_WANT_FIELD,))
    while lanes > 0x7F:
        payload.append(lanes & 0x7F | 0x80)
        lanes >>= 7
    payload.append(lanes)
    return bytes(payload)


class Waiter(Protocol):
    """A visit that takes a lane, now or later."""

    wait_deadline: float  # set by the pool, on the loop's clock

    def begin(self, lane: PyLane) -> None:
        """This lane is the visit's."""
        ...

    def no_lane(self, message: str) -> None:
        """It gets none, and waits no longer."""
        ...


class PyPool:
    """The contract's Pool, for either side."""

    marks_openings = False  # whether its visits find out if their OPEN has arrived

    def __init__(self, core: Core, side: Side, limits: PoolLimits, control: PyLane | None = None) -> None:
        self.core = core
        self.side = side
        self.limits = limits
        self.lanes: set[PyLane] = set()
        self.idle: dict[PyLane, None] = {}  # used last in, first out, so that surplus lanes stay unused
        self.waiters: deque[Waiter] = deque()
        self.closed = False
        self._control = control
        self._start_visit: Callable[[PyLane, Opening], None] | None = None
        self._requested = 0  # lanes that were requested and have not come
        self._requested_at = 0.0  # when lanes were requested last, or one of them came
        self._request_scheduled = False
        core.pools.add(self)

    @property
    def counts(self) -> PoolCounts:
        return PoolCounts(len(self.idle), len(self.lanes) - len(self.idle), len(self.waiters))

    @property
    def serves(self) -> bool:
        return self._start_visit is not None

    def serve(self, start_visit: Callable[[PyLane, Opening], None]) -> None:
        """Call `start_visit` for each OPEN on a lane of this pool: it must answer the opening, or put a visit on the
        lane that does."""
        self._start_visit = start_visit

    def park(self, lane: Lane) -> None:
        assert isinstance(lane, PyLane)
        if lane.closed:
            return
        if self.closed or len(self.lanes) >= self.limits.lanes:
            lane.close()
            return
        lane.assign(self)
        self.lanes.add(lane)
        if self._requested:
            self._requested -= 1
            self._requested_at = self.core.loop.time()
        self._offer(lane)

    def want(self, lanes: int) -> None:
        """No effect: this pool does not dial."""

    def aim(self, target: DialTarget) -> None:
        """No effect: this pool does not dial."""

    def attach_control(self, control: Lane | None) -> None:
        assert control is None or isinstance(control, PyLane)
        self._control = control
        self._requested = 0  # requests went out on the control lane before
        if control is None:
            self._fail_waiters("the tunnel's client is away")
        elif self.waiters:
            self._request_missing()

    def retire(self) -> None:
        if self.closed:
            return
        self.closed = True
        for lane in list(self.idle):
            self._release(lane)
        self._fail_waiters("the tunnel is closing")
        if not self.lanes:
            self.core.pools.discard(self)

    def close(self) -> None:
        self.retire()
        for lane in list(self.lanes):
            lane.cut()
        self.core.pools.discard(self)

    # Calls by visits, on the opener's side.

    def take(self, visit: Waiter) -> PyLane | None:
        """An idle lane for this visit. None: the visit waits for one, or `no_lane` was called."""
        while self.idle:
            lane, _ = self.idle.popitem()
            if lane.usable:
                self._lane_used()
                return lane
        if self.closed or len(self.waiters) >= self.limits.waiting:
            visit.no_lane(_NONE_FREE)
            return None
        obstacle = self._obstacle()
        if obstacle is not None:
            visit.no_lane(obstacle)
            return None
        visit.wait_deadline = self.core.loop.time() + self.limits.wait
        self.waiters.append(visit)
        if not self._request_scheduled:
            self._request_scheduled = True
            self.core.loop.call_soon(self._request_missing)
        return None

    def stop_waiting(self, visit: Waiter) -> None:
        """Take the visit out of the queue, if it is there."""
        try:
            self.waiters.remove(visit)
        except ValueError:
            pass

    def _request_missing(self) -> None:
        """Request all lanes that are missing: the number replaces that of an earlier request."""
        self._request_scheduled = False
        missing = min(len(self.waiters), self.limits.lanes - len(self.lanes))
        if missing <= self._requested:
            return
        self._requested = missing
        self._requested_at = self.core.loop.time()
        self._request(missing)

    def _fail_waiters(self, message: str) -> None:
        waiters, self.waiters = self.waiters, deque()
        self._requested = 0
        for visit in waiters:
            visit.no_lane(message)

    # What a pool that dials does differently.

    def _obstacle(self) -> str | None:
        """Why no lane can be requested; None if one can."""
        return _NONE_FREE if self._control is None or self._control.closed else None

    def _request(self, lanes: int) -> None:
        if self._control is not None:
            self._control.send(FrameType.WANT, encode_want(lanes))

    def _lane_used(self) -> None:
        """A visit takes a lane that was idle."""

    # Calls by lanes and by liveness.

    def lane_idle(self, lane: PyLane) -> None:
        if lane in self.lanes:
            self._offer(lane)

    def lane_retires(self, lane: PyLane) -> None:
        if self.side is Side.OPENER and lane in self.idle:
            self._release(lane)

    def lane_closed(self, lane: PyLane, error: CarrierError) -> None:
        self.idle.pop(lane, None)
        self.lanes.discard(lane)
        if self.closed and not self.lanes:
            self.core.pools.discard(self)

    def lane_opening(self, lane: PyLane, opening: Opening) -> None:
        assert self._start_visit is not None
        self.idle.pop(lane, None)
        self._lane_used()
        self._start_visit(lane, opening)

    def sweep(self, now: float) -> None:
        """Called once a second: fail visits that have waited too long, repeat a request that brought no lane."""
        while self.waiters and self.waiters[0].wait_deadline <= now:
            self.waiters.popleft().no_lane("no lane came in time")
        if self.waiters and now - self._requested_at >= WANT_AGAIN:
            self._requested = 0
            self._request_missing()

    def _offer(self, lane: PyLane) -> None:
        """Give an idle lane to the first visit that waits, or keep it."""
        if not lane.usable:
            return  # its end is about to be reported
        if self.closed or (self.side is Side.OPENER and (lane.retiring or lane.state.spent)):
            self._release(lane)
        elif self.waiters:
            self._lane_used()
            self.waiters.popleft().begin(lane)
        else:
            self.idle[lane] = None

    def _release(self, lane: PyLane) -> None:
        """Close an idle lane; the acceptor asks the opener to, which alone knows that no OPEN is on its way."""
        if self.side is Side.OPENER:
            self.idle.pop(lane, None)
            lane.close()
        elif not lane.retiring:
            lane.retiring = True
            lane.send(FrameType.RETIRE)
