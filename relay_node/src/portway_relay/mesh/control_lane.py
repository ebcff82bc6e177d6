"""The control lane to one other node, kept up: what this node holds is told, what the other holds is asked.

Here: one lane, its questions and their answers. Not here: what is told (routes.py), lanes that carry visits (peer.py).
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final

from google.protobuf.message import DecodeError
from portway_carrier.contract import Carrier, Lane
from portway_carrier.errors import CarrierError, ConnectionLost
from portway_carrier.values import DialTarget
from portway_proto.v1.lane_pb2 import Answer, Ask, Routes, RoutesHeard
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import MAX_CONTROL
from portway_runtime.tasks import Tasks

logger = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
# The last tunnel that is added to a frame may be as large as names can get, and the frame stays below MAX_CONTROL.
_FRAME_SIZE: Final = MAX_CONTROL - 4096


class ControlLane:
    """Also the LaneEvents of its lane."""

    def __init__(
        self,
        name: str,
        carrier: Carrier,
        target: DialTarget,
        tasks: Tasks,
        whole: Callable[[], Iterable[TunnelInfo]] | None,
    ) -> None:
        """`whole` is what is told when the lane is up: everything that this node holds; None tells nothing."""
        self._name = name
        self._carrier = carrier
        self._target = target
        self._whole = whole
        self._lane: Lane | None = None
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._request = 0
        self._asked: dict[int, asyncio.Future[Answer | None]] = {}
        self._told = self._heard = 0
        self._unheard: dict[asyncio.Future[None], int] = {}  # up to which number they wait for
        self._keeper = tasks.spawn(self._keep(), name=f"control lane to {name}")

    @property
    def up(self) -> bool:
        return self._lane is not None

    def aim(self, target: DialTarget) -> None:
        """Dial so from now on; a lane that is up stays up."""
        self._target = target

    def tell(self, routes: Routes) -> None:
        """Changes; what the other node does not hear now it is told whole when it is back."""
        if self._lane is not None:
            if any(tunnel.unencrypted_port for tunnel in routes.bound):
                self._told += 1
                routes.number = self._told
            self._lane.send(FrameType.ROUTES, routes.SerializeToString())

    def unacknowledged(self) -> asyncio.Future[None] | None:
        """Done once the other node listens on the raw ports that it was told of, or is lost; None when it does."""
        if self._lane is None or self._heard == self._told:
            return None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unheard[future] = self._told
        future.add_done_callback(lambda future: self._unheard.pop(future, None))
        return future

    async def ask(self, label: str) -> Answer | None:
        """What the other node says of a label, and of itself alone; None when it cannot be asked.

        Waits as long as the lane lives: callers have a time limit, and cancel.
        """
        if self._lane is None:
            return None
        self._request += 1
        request = self._request
        answer: asyncio.Future[Answer | None] = self._loop.create_future()
        self._asked[request] = answer
        self._lane.send(FrameType.ASK, Ask(request=request, label=label).SerializeToString())
        try:
            said = await answer
        finally:
            del self._asked[request]
        if (
            said is not None
            and said.HasField("tunnel")
            and (said.tunnel.label, said.tunnel.node) != (label, self._name)
        ):
            return Answer(request=request)
        return said

    def close(self) -> None:
        self._keeper.cancel()
        if self._lane is not None:
            self._lane.close()

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                stream = self._carrier.connect(self._target.address, self._target.tls)
                try:
                    await stream.ready()
                except asyncio.CancelledError:
                    stream.abort()
                    raise
                self._over.clear()
                lane = self._carrier.lane(stream, Side.OPENER, self)
            except CarrierError as error:
                logger.debug("peer not reached", extra={"peer": self._name, "reason": str(error)})
            else:
                began = self._loop.time()
                self._begin(lane)
                await self._over.wait()
                if self._loop.time() - began >= _LONGEST_PAUSE:
                    pause = _FIRST_PAUSE  # it served; one that is refused at once is not dialled in a loop
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries only
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _begin(self, lane: Lane) -> None:
        self._lane = lane
        self._told = self._heard = 0
        lane.send(*self._target.greeting)
        if self._whole is None:
            return
        frame, size = Routes(), 0
        for tunnel in self._whole():
            frame.bound.append(tunnel)
            size += tunnel.ByteSize() + 4  # its tag and length
            if size >= _FRAME_SIZE:
                self.tell(frame)
                frame, size = Routes(), 0
        frame.whole = True
        self.tell(frame)

    # The lane's events.

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        try:
            if frame_type == FrameType.ANSWER:
                self._answered(Answer.FromString(payload))
            elif frame_type == FrameType.ROUTES_HEARD:
                self._was_heard(RoutesHeard.FromString(payload).number)
            else:
                raise ValueError(f"frame 0x{frame_type:02x} on a control lane")
        except (DecodeError, ValueError) as error:
            logger.warning("a peer broke the protocol", extra={"peer": self._name, "reason": str(error)})
            lane.abort()

    def _answered(self, answer: Answer) -> None:
        waiting = self._asked.get(answer.request)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _was_heard(self, number: int) -> None:
        self._heard = min(max(self._heard, number), self._told)
        for waiting, up_to in list(self._unheard.items()):
            if up_to <= self._heard and not waiting.done():
                waiting.set_result(None)

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.refuse(RefusalReason.OTHER, "visits are opened by who dialled")

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        self._lane = None
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_result(None)
        for unacknowledged in list(self._unheard):
            if not unacknowledged.done():
                unacknowledged.set_result(None)
        self._over.set()
        if not (isinstance(error, ConnectionLost) and error.clean):
            logger.info("peer lost", extra={"peer": self._name, "reason": str(error)})
