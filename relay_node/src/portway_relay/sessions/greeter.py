"""Link lanes from accept until they have said who they are: HELLO begins or resumes a session, PARK joins one.

Here: the handshake, the first frame, the bounds on both. Not here: who is admitted (sessions.py), nor what a session
is asked for then (session.py).
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final, Protocol

from portway_carrier.contract import Carrier, Lane, LaneEvents, Stream
from portway_carrier.errors import CarrierError
from portway_carrier.values import ServerTls
from portway_proto.v1.lane_pb2 import FAILURE_CODE_PROTOCOL, FAILURE_CODE_VERSION, Hello, Park
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import PROTOCOL_VERSION
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.tasks import Tasks

from portway_relay.errors import Refused
from portway_relay.net.half_open import HalfOpenConnections
from portway_relay.sessions.messages import read

logger = logging.getLogger(__name__)


# Who has not answered for so long has lost a packet at the least, and makes room when others come.
PATIENCE: Final = 2.0


class Admission(Protocol):
    """Who decides about first frames. Both calls raise Refused, which is told to the client."""

    def hello(self, lane: Lane, hello: Hello) -> LaneEvents:
        """A control lane; its later frames go to what is returned."""
        ...

    def park(self, lane: Lane, park: Park) -> None:
        """A data lane; it is the session's pool's from then on."""
        ...


class Greeter:
    """The lanes of which nobody knows yet whose they are."""

    def __init__(
        self,
        carrier: Carrier,
        link_tls: Callable[[], ServerTls],
        admission: Admission,
        *,
        time_limit: float,
        most: int,
        most_of_one: int,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`time_limit`, in seconds, is for the first frame; for the handshake the carrier has one. `most` may be on
        their way, `most_of_one` of one address."""
        self._carrier = carrier
        self._link_tls = link_tls
        self._admission = admission
        self._time_limit = time_limit
        self._tasks = Tasks("greeter", on_failure)
        self._waiting = HalfOpenConnections[_Newcomer](most, most_of_one, _Newcomer.drop, clock, patience=PATIENCE)
        self.rejected = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def handshakes(self) -> int:
        """TLS handshakes in progress."""
        return len(self._tasks)

    @property
    def evicted(self) -> int:
        """Lanes that did not answer, and made room for others."""
        return self._waiting.evicted

    def accept(self, sock: socket.socket, peer: Endpoint) -> None:
        """A client's connection. Owns the socket; above the limit it is closed: before any cryptography is spent, for
        to say why would cost all of it. Raises TlsSettingsError."""
        newcomer = _Newcomer(self, self._admission)
        if not self._waiting.add(newcomer, peer.host):
            self.rejected += 1
            sock.close()
            return
        try:
            newcomer.stream = self._carrier.accept(sock, self._link_tls())
        except BaseException:
            self._waiting.discard(newcomer)
            raise
        self._tasks.spawn(self._shake_hands(newcomer, newcomer.stream), name="handshake")

    async def close(self) -> None:
        """Drop all that have not said who they are."""
        await self._tasks.close()
        for newcomer in self._waiting:
            newcomer.drop()

    async def _shake_hands(self, newcomer: "_Newcomer", stream: Stream) -> None:
        try:
            await stream.ready()
            newcomer.lane = self._carrier.lane(stream, Side.OPENER, newcomer)
        except CarrierError as error:
            self.decided(newcomer)
            logger.debug("a client's connection did not come to be: %s", error)
        except BaseException:
            newcomer.drop()
            raise
        else:
            newcomer.timer = asyncio.get_running_loop().call_later(self._time_limit, newcomer.drop)

    def decided(self, newcomer: "_Newcomer") -> None:
        """It has said who it is, or is gone."""
        self._waiting.discard(newcomer)
        if newcomer.timer is not None:
            newcomer.timer.cancel()


class _Newcomer:
    """The LaneEvents of one link lane: its first frame is judged, a control lane's later ones are passed on."""

    def __init__(self, greeter: Greeter, admission: Admission) -> None:
        self.stream: Stream | None = None
        self.lane: Lane | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._greeter = greeter
        self._admission = admission
        self._control: LaneEvents | None = None
        self._parked = False
        self._refused = False

    def drop(self) -> None:
        self._greeter.decided(self)
        if self.lane is not None:
            self.lane.abort()
        elif self.stream is not None:
            self.stream.abort()

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        if self._control is not None:
            self._control.frame_received(lane, frame_type, payload)
            return
        if self._refused:
            return
        self._greeter.decided(self)
        try:
            self._admit(lane, frame_type, payload)
        except Refused as refused:
            self._refused = True
            logger.info("a client's lane is refused", extra={"peer": lane.peer.host, "reason": refused.message})
            lane.fail(refused.failure.SerializeToString())

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.refuse(RefusalReason.OTHER, "visits are opened by the node")

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        self._greeter.decided(self)
        if self._control is not None:
            self._control.lane_closed(lane, error)

    def _admit(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        if self._parked:
            raise Refused(FAILURE_CODE_PROTOCOL, "nothing but visits' frames follows PARK")
        if frame_type == FrameType.HELLO:
            hello = read(Hello, payload)
            _demand_version(hello.version)
            self._control = self._admission.hello(lane, hello)
        elif frame_type == FrameType.PARK:
            park = read(Park, payload)
            _demand_version(park.version)
            self._admission.park(lane, park)
            self._parked = True
        else:
            raise Refused(FAILURE_CODE_PROTOCOL, "a lane begins with HELLO or PARK")


def _demand_version(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise Refused(
            FAILURE_CODE_VERSION,
            f"this node speaks version {PROTOCOL_VERSION} of the lane protocol, the client version {version}: "
            "bring both to the same release",
        )
