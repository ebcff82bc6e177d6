"""The control lane to one other node, kept up: reports what this node holds, asks what the other one holds.

Here: one lane, dialled again whenever it is lost; ROUTES and their acknowledgement, ASK and ANSWER. Not here: when
something is reported (announcer.py), lanes that carry visits (peers.py).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, Final

from google.protobuf.message import DecodeError
from portway_carrier.contract import Carrier, Lane
from portway_carrier.errors import CarrierError, ConnectionLost, PeerFailed
from portway_carrier.values import DialTarget
from portway_proto.records import MAX_LINK_FAILURE, cut_printable, tunnel_record
from portway_proto.v1.lane_pb2 import Answer, Ask, Failure, Routes, RoutesHeard
from portway_proto.v1.types_pb2 import MeshLink, NodeState, TunnelInfo
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import MAX_CONTROL
from portway_proto.wire.statements import Presence
from portway_runtime.backoff import Backoff
from portway_runtime.tasks import Tasks

from portway_relay.mesh.frame_budgets import PeerBudget

logger = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
# Seconds after which a link counts as down, with two tries at the longest pause in them.
_DOWN_AFTER: Final = 12.0
_NOT_DIALLED: Final = "it has not been reached yet"
# Bytes of a ROUTES frame with many tunnels; the longest tunnel has 8 KiB, the longest presence too.
_FRAME_SIZE: Final = MAX_CONTROL - 64


class ControlLane:
    """The control lane to one node, and the LaneEvents of the connection that it has now."""

    def __init__(
        self,
        name: str,
        carrier: Carrier,
        target: DialTarget,
        budget: PeerBudget,
        tasks: Tasks,
        held: Callable[[], Iterable[TunnelInfo | Presence]] | None,
        state: Callable[[], "NodeState.ValueType"],
    ) -> None:
        """Dial now, and again whenever the lane is lost, in a task of `tasks`.

        held: the presences of this node's sessions, then its tunnels, all of which are reported each time the lane
            comes up; None reports none.
        state: this node's, which is reported then, too.
        """
        self._name = name
        self._carrier = carrier
        self._target = target
        self._budget = budget
        self._held = held
        self._state = state
        self._failed = False  # the last try, or the last lane
        self._lane: Lane | None = None
        self._loop = asyncio.get_running_loop()
        self._lost = asyncio.Event()
        self._round_trip = 0.0  # seconds, of the lane that is up; 0 when not known
        self._up_since = self._down_since = self._loop.time()
        self._failure = _NOT_DIALLED
        self._request = 0
        self._answers: dict[int, asyncio.Future[Answer | None]] = {}  # by request
        # ROUTES with raw ports are numbered, and acknowledged once the other node listens on those ports.
        self._sent = self._acknowledged = 0
        self._unacknowledged: dict[asyncio.Future[None], int] = {}  # the number that each waits for
        self._keeper = tasks.spawn(self._keep_up(), name=f"control lane to {name}")

    @property
    def up(self) -> bool:
        return self._lane is not None

    @property
    def lost(self) -> bool:
        """Whether the other node was not reached, or is not any more; not while it is dialled for the first time."""
        return self._failed

    @property
    def down_for(self) -> float:
        """Seconds since it was up for a while; 0.0 while it is up."""
        return 0.0 if self.up else self._loop.time() - self._down_since

    def link(self) -> MeshLink:
        """How it is, for operators. One that is down for a moment, as while the other node restarts, is not down."""
        if self._lane is not None:
            return MeshLink(node=self._name, round_trip_us=round(self._round_trip * 1e6))
        is_down = self.down_for >= _DOWN_AFTER
        failure = cut_printable(self._failure, MAX_LINK_FAILURE) if is_down else ""
        return MeshLink(node=self._name, failure=failure)

    def aim(self, target: DialTarget) -> None:
        """Dial `target` from now on; a lane that is up stays up."""
        self._target = target

    def tell(self, routes: Routes) -> None:
        """Report changes. They are dropped while the lane is down: everything is reported when it comes up."""
        if self._lane is not None:
            if any(tunnel.unencrypted_port for tunnel in routes.bound):
                self._sent += 1
                routes.number = self._sent
            self._lane.send(FrameType.ROUTES, routes.SerializeToString())

    def unacknowledged(self) -> asyncio.Future[None] | None:
        """A future that is done once the other node listens on all raw ports reported so far, or the lane is lost;
        None when there is nothing to wait for."""
        if self._lane is None or self._acknowledged == self._sent:
            return None
        future: asyncio.Future[None] = self._loop.create_future()
        self._unacknowledged[future] = self._sent
        future.add_done_callback(lambda future: self._unacknowledged.pop(future, None))
        return future

    async def ask(self, label: str) -> Answer | None:
        """What the other node answers about a label; None when it cannot be asked. An answer that names another label
        or another node counts as one without a tunnel.

        Waits while the lane is up, so callers set a time limit and cancel. Cancelled, a late answer is ignored.
        """
        if self._lane is None:
            return None
        self._request += 1
        request = self._request
        future = self._answers[request] = self._loop.create_future()
        self._lane.send(FrameType.ASK, Ask(request=request, label=label).SerializeToString())
        try:
            answer: Answer | None = await future
        finally:
            del self._answers[request]
        tunnel = answer.tunnel if answer is not None and answer.HasField("tunnel") else None
        if tunnel is not None and (tunnel.label, tunnel.node) != (label, self._name):
            return Answer(request=request)
        return answer

    def close(self) -> None:
        """Close the lane, and dial no more."""
        self._keeper.cancel()
        if self._lane is not None:
            self._lane.close()

    async def _keep_up(self) -> None:
        pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while True:
            try:
                lane = await self._dial()
            except CarrierError as error:
                self._failed = True
                self._failure = str(error)
                logger.debug("peer not reached", extra={"peer": self._name, "reason": str(error)})
            else:
                self._report_all(lane)
                await self._lost.wait()
                if self._has_served():
                    pauses.reset()
            await asyncio.sleep(pauses.next())

    def _has_served(self) -> bool:
        """Whether the last lane was up for a while. One that is refused at once must not be dialled in a tight loop,
        and was not up."""
        return self._loop.time() - self._up_since >= _LONGEST_PAUSE

    async def _dial(self) -> Lane:
        stream = self._carrier.connect(self._target.address, self._target.tls)
        try:
            self._round_trip = (await stream.ready()).round_trip or 0.0
        except asyncio.CancelledError:
            stream.abort()
            raise
        self._lost.clear()
        return self._carrier.lane(stream, Side.OPENER, self)

    def _report_all(self, lane: Lane) -> None:
        self._lane, self._up_since = lane, self._loop.time()
        self._failed = False
        self._sent = self._acknowledged = 0
        lane.charge_to(self._budget)
        lane.send(*self._target.greeting)
        if self._held is None:
            self.tell(Routes(state=self._state()))
            return
        *before, last = in_frames(self._held())
        last.whole, last.state = True, self._state()
        for routes in (*before, last):
            self.tell(routes)

    # The LaneEvents.

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        try:
            handler = self._HANDLERS.get(frame_type)
            if handler is None:
                raise ValueError(f"frame 0x{frame_type:02x} is not a node's to send here")
            handler(self, payload)
        except (DecodeError, ValueError) as error:
            logger.warning("a peer broke the protocol", extra={"peer": self._name, "reason": str(error)})
            lane.abort()

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.refuse(RefusalReason.OTHER, "visits are opened by the side that dialled")

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        self._failed = True
        self._lane, self._failure = None, _reason(error)
        if self._has_served():
            self._down_since = self._loop.time()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(None)
        for future in list(self._unacknowledged):
            if not future.done():
                future.set_result(None)
        self._lost.set()
        if not (isinstance(error, ConnectionLost) and error.clean):
            logger.info("peer lost", extra={"peer": self._name, "reason": _reason(error)})

    def _answer(self, payload: bytes) -> None:
        answer = Answer.FromString(payload)
        future = self._answers.get(answer.request)
        if future is None or future.done():
            return
        if answer.HasField("tunnel"):
            answer.tunnel.CopyFrom(tunnel_record(answer.tunnel))
        future.set_result(answer)

    def _routes_heard(self, payload: bytes) -> None:
        number = RoutesHeard.FromString(payload).number
        self._acknowledged = min(max(self._acknowledged, number), self._sent)
        for future, awaited in list(self._unacknowledged.items()):
            if awaited <= self._acknowledged and not future.done():
                future.set_result(None)

    _HANDLERS: ClassVar[Mapping[int, Callable[["ControlLane", bytes], None]]] = {
        FrameType.ANSWER: _answer,
        FrameType.ROUTES_HEARD: _routes_heard,
    }


def in_frames(told: Iterable[TunnelInfo | Presence]) -> Iterator[Routes]:
    """ROUTES with these in their order, each of which fits in a frame. One at least, which may be empty."""
    routes, size = Routes(), 0
    for one in told:
        length = 4 + (len(one.encoded) if isinstance(one, Presence) else one.ByteSize())  # with its tag and length
        if size + length > _FRAME_SIZE:
            yield routes
            routes, size = Routes(), 0
        size += length
        if isinstance(one, Presence):
            routes.presences.append(one.encoded)
        else:
            routes.bound.append(one)
    yield routes


def _reason(error: CarrierError) -> str:
    """Why a lane ended: in the peer's own words, if it has sent FAIL."""
    if not isinstance(error, PeerFailed):
        return str(error)
    try:
        return f"it said: {Failure.FromString(error.payload).message}"
    except DecodeError:
        return str(error)
