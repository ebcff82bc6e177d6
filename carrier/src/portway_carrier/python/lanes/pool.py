"""A pool: the lanes of one peer, which are idle, and which visitors wait for one."""

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_proto.wire.lane import Side

from portway_carrier.contract import Lane, LocalService, PoolCounts, ServeEvents
from portway_carrier.errors import CarrierError
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.visits.served import ServedVisit
from portway_carrier.values import DialTarget, PoolLimits

if TYPE_CHECKING:
    from portway_carrier.python.carrier import PythonCarrier
    from portway_carrier.python.lanes.spares import Spares
    from portway_carrier.python.visits.joined import JoinedVisit

# portway.v1.Want, whose one field is a small number: written by hand so that carriers need no protobuf.
_WANT_FIELD = 0x08
# A WANT that brought nothing is repeated: the lanes may have been dialled and lost on the way.
WANT_AGAIN = 1.0
_UNREACHED = "the node cannot be reached"


def encode_want(lanes: int) -> bytes:
    """The payload of WANT: field 1 as a protobuf varint."""
    payload = bytearray((_WANT_FIELD,))
    while lanes > 0x7F:
        payload.append(lanes & 0x7F | 0x80)
        lanes >>= 7
    payload.append(lanes)
    return bytes(payload)


class PyPool:
    """The contract's Pool, for either side; one that dials has `spares`."""

    def __init__(self, carrier: "PythonCarrier", side: Side, limits: PoolLimits, control: PyLane | None) -> None:
        self.carrier = carrier
        self.side = side
        self.limits = limits
        self.lanes: set[PyLane] = set()
        self.idle: dict[PyLane, None] = {}  # the last one in is used first, so that the rest can be let go
        self.waiters: deque[JoinedVisit] = deque()
        self.spares: Spares | None = None
        self.visited = False
        self.closed = False
        self._control = control
        self._table: Mapping[str, LocalService] | None = None
        self._events: ServeEvents | None = None
        self._asked = 0  # lanes that a WANT was sent for and that have not come
        self._asked_at = 0.0  # when one was sent, or one of its lanes came
        self._asking = False

    @property
    def counts(self) -> PoolCounts:
        dialling = self.spares.dialling if self.spares is not None else 0
        return PoolCounts(len(self.idle), len(self.lanes) - len(self.idle), len(self.waiters), dialling)

    @property
    def serves(self) -> bool:
        return self._table is not None

    def serve(self, table: Mapping[str, LocalService], events: ServeEvents | None) -> None:
        self._table = table
        self._events = events

    def park(self, lane: Lane) -> None:
        assert isinstance(lane, PyLane)
        if lane.closed:
            return
        if self.closed or len(self.lanes) >= self.limits.lanes:
            lane.close()
            return
        lane.taken_by(self)
        self.lanes.add(lane)
        if self._asked:
            self._asked -= 1
            self._asked_at = self.carrier.loop.time()
        self._offer(lane)

    def want(self, lanes: int) -> None:
        if self.spares is not None and not self.closed:
            self.spares.want(lanes)

    def aim(self, target: DialTarget) -> None:
        if self.spares is not None:
            self.spares.target = target

    def attach_control(self, control: Lane | None) -> None:
        assert control is None or isinstance(control, PyLane)
        self._control = control
        self._asked = 0  # it was asked of the one before
        if control is None and self.spares is None:
            self._turn_away("the tunnel's client is away")
        elif self.waiters:
            self._ask()

    def retire(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.spares is not None:
            self.spares.close()
        for lane in list(self.idle):
            self._let_go(lane)
        self._turn_away("the tunnel is closing")
        if not self.lanes:
            self.carrier.pools.discard(self)

    def close(self) -> None:
        self.retire()
        for lane in list(self.lanes):
            lane.cut()
        self.carrier.pools.discard(self)

    # The opener's side.

    def take(self, visit: "JoinedVisit") -> PyLane | None:
        """An idle lane for this visit, now; None: it waits, or is told `no_lane`."""
        while self.idle:
            lane, _ = self.idle.popitem()
            if lane.usable:
                self._used()
                return lane
        can_ask = self.spares is not None or (self._control is not None and not self._control.closed)
        if self.closed or not can_ask or len(self.waiters) >= self.limits.waiting:
            visit.no_lane("no lane is free")
            return None
        if self._hopeless:
            visit.no_lane(_UNREACHED)
            return None
        visit.waits_until = self.carrier.loop.time() + self.limits.wait
        self.waiters.append(visit)
        if not self._asking:
            self._asking = True
            self.carrier.loop.call_soon(self._ask)
        return None

    def forget(self, visit: "JoinedVisit") -> None:
        """It waits no more."""
        try:
            self.waiters.remove(visit)
        except ValueError:
            pass  # it did not

    def give_up_if_hopeless(self) -> None:
        """Nobody waits for a peer that no lane is left to and that cannot be dialled: another one may do."""
        if self._hopeless:
            self.want(0)
            self._turn_away(_UNREACHED)

    @property
    def _hopeless(self) -> bool:
        return self.spares is not None and not self.lanes and self.spares.hopeless

    def _ask(self) -> None:
        """WANT names all that are missing, so that one more takes the place of the one before."""
        self._asking = False
        missing = min(len(self.waiters), self.limits.lanes - len(self.lanes))
        if missing <= self._asked:
            return
        self._asked = missing
        self._asked_at = self.carrier.loop.time()
        if self.spares is not None:
            self.spares.want(missing)
        elif self._control is not None:
            self._control.send(FrameType.WANT, encode_want(missing))

    def _turn_away(self, message: str) -> None:
        waiters, self.waiters = self.waiters, deque()
        self._asked = 0
        for visit in waiters:
            visit.no_lane(message)

    # What lanes tell.

    def lane_idle(self, lane: PyLane) -> None:
        if lane in self.lanes:
            self._offer(lane)

    def lane_retires(self, lane: PyLane) -> None:
        """The other side asks for it to be closed; only the opener may."""
        if self.side is Side.OPENER and lane in self.idle:
            self._let_go(lane)

    def lane_gone(self, lane: PyLane, error: CarrierError) -> None:
        self.idle.pop(lane, None)
        self.lanes.discard(lane)
        if self.closed and not self.lanes:
            self.carrier.pools.discard(self)
        elif self.spares is not None:
            self.spares.lane_gone(lane, error)
            self.give_up_if_hopeless()

    def lane_opening(self, lane: PyLane, opening: Opening) -> None:
        """Acceptor: an OPEN on one of the lanes of a pool that serves."""
        assert self._table is not None
        self.idle.pop(lane, None)
        self._used()
        service = self._table.get(opening.label)
        if service is None:
            lane.refuse(RefusalReason.NOT_HERE)
            if self._events is not None:
                self.carrier.tell(
                    None, self._events.visit_refused, opening, RefusalReason.NOT_HERE, "no such tunnel here"
                )
            return
        visit = ServedVisit(self.carrier, lane, opening, service, self._events)
        self.carrier.visit_begins(visit)
        visit.start()

    def sweep(self, now: float) -> None:
        """Once a second: visitors that have waited too long, a WANT that brought nothing, spare lanes."""
        while self.waiters and self.waiters[0].waits_until <= now:
            self.waiters.popleft().no_lane("no lane came in time")
        if self.waiters and now - self._asked_at >= WANT_AGAIN:
            self._asked = 0
            self._ask()
        if self.spares is not None:
            self.spares.sweep(now)

    def _used(self) -> None:
        self.visited = True
        if self.spares is not None:
            self.spares.lane_used()

    def _offer(self, lane: PyLane) -> None:
        if not lane.usable:
            return  # its end is about to be told
        if self.closed or (self.side is Side.OPENER and (lane.retiring or lane.state.spent)):
            self._let_go(lane)
        elif self.waiters:
            self._used()
            self.waiters.popleft().begin(lane)
        else:
            self.idle[lane] = None

    def _let_go(self, lane: PyLane) -> None:
        """Close an idle lane, or ask the opener to: only it knows that no OPEN is on its way."""
        if self.side is Side.OPENER:
            self.idle.pop(lane, None)
            lane.close()
        elif not lane.retiring:
            lane.retiring = True
            lane.send(FrameType.RETIRE)

    def let_go_oldest(self, count: int) -> None:
        for lane in [lane for lane in self.idle if not lane.retiring][:count]:
            self._let_go(lane)
