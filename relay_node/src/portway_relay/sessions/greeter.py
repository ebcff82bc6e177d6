"""Link lanes from accept to their first frame: HELLO begins or resumes a session, PARK adds a data lane to one.

Here: the handshake, the first frame, the limits on both. Not here: which clients are admitted (sessions.py), what a
session's control lane requests afterwards (session.py).
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, Final, Protocol

from google.protobuf.message import DecodeError
from portway_carrier.contract import Carrier, Lane, LaneEvents, Stream
from portway_carrier.errors import CarrierError
from portway_carrier.values import ServerTls
from portway_proto.v1.lane_pb2 import FAILURE_CODE_PROTOCOL, FAILURE_CODE_VERSION, Hello, Park
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import PROTOCOL_VERSION
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.half_open import STALLED_AFTER, HalfOpenConnections
from portway_runtime.tasks import Tasks
from portway_runtime.tls_choices import Group

from portway_relay.errors import Refused

logger = logging.getLogger(__name__)

# Control frames (16 KiB each) that may wait for WELCOME: a client sends none, a test or two.
_MAX_EARLY: Final = 4


class Admission(Protocol):
    """Decides about first frames. Both methods raise Refused, which is sent to the client."""

    async def hello(self, lane: Lane, hello: Hello) -> LaneEvents:
        """Admit a control lane, once signatures are checked. Its later frames go to what is returned. Cancelled when
        the lane is closed meanwhile."""
        ...

    def park(self, lane: Lane, park: Park) -> None:
        """Admit a data lane, which belongs to the session's pool from then on."""
        ...


class Greeter:
    """The link lanes whose first frame has not come yet."""

    def __init__(
        self,
        carrier: Carrier,
        link_tls: Callable[[Group], ServerTls],
        admission: Admission,
        *,
        time_limit: float,
        capacity: int,
        capacity_per_address: int,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """time_limit: seconds for the first frame after the handshake, for which the carrier has a limit of its own.
        capacity: lanes that may be waiting, in all and for each address.
        """
        self._carrier = carrier
        self._link_tls = link_tls
        self._admission = admission
        self._time_limit = time_limit
        self._tasks = Tasks("greeter", on_failure)
        self._admissions = Tasks("admissions", on_failure)
        self._waiting = HalfOpenConnections[_GreetingLane](
            capacity, capacity_per_address, _GreetingLane.drop, clock, min_age=STALLED_AFTER
        )
        self.rejected = 0  # connections that were closed for want of room

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def handshakes(self) -> int:
        """TLS handshakes in progress."""
        return len(self._tasks)

    @property
    def evicted(self) -> int:
        """Lanes that made no progress and were closed to make room."""
        return self._waiting.evicted

    def accept(self, sock: socket.socket, peer: Endpoint, group: Group, established: Callable[[], None]) -> None:
        """Take a client's connection, and the ownership of its socket; `established` is called after the handshake.
        Raises TlsSettingsError.

        When there is no room it is closed without a handshake: an answer would cost as much as serving it.
        """
        lane = _GreetingLane(self, self._admission)
        if not self._waiting.add(lane, peer.host):
            self.rejected += 1
            sock.close()
            established()  # the peer has left no handshake unfinished
            return
        try:
            lane.stream = self._carrier.accept(sock, self._link_tls(group), established, peer=peer)
        except BaseException:
            self._waiting.discard(lane)
            raise
        self._tasks.spawn(self._shake_hands(lane, lane.stream), name="handshake")

    async def close(self) -> None:
        """Drop every lane that has not been admitted."""
        await self._tasks.close()
        await self._admissions.close()
        for lane in self._waiting:
            lane.drop()

    async def _shake_hands(self, greeting: "_GreetingLane", stream: Stream) -> None:
        try:
            await stream.ready()
            greeting.lane = self._carrier.lane(stream, Side.OPENER, greeting, greeted=False)
        except CarrierError as error:
            self.stop_waiting(greeting)
            logger.debug("a client's connection failed: %s", error)
        except BaseException:
            greeting.drop()
            raise
        else:
            greeting.timer = asyncio.get_running_loop().call_later(self._time_limit, greeting.drop)

    def admit(self, admitting: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run the admission of a control lane."""
        return self._admissions.spawn(admitting, name="admit a client")

    def stop_waiting(self, greeting: "_GreetingLane") -> None:
        """The lane's first frame has come, or it is closed."""
        self._waiting.discard(greeting)
        if greeting.timer is not None:
            greeting.timer.cancel()


class _GreetingLane:
    """The LaneEvents of a link lane: admits it by its first frame, and passes a control lane's later frames on."""

    def __init__(self, greeter: Greeter, admission: Admission) -> None:
        self.stream: Stream | None = None
        self.lane: Lane | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._greeter = greeter
        self._admission = admission
        self._control: LaneEvents | None = None
        self._admitting: asyncio.Task[None] | None = None
        self._early: list[tuple[int, bytes]] = []  # frames that came before WELCOME was sent
        self._parked = False
        self._refused = False

    def drop(self) -> None:
        self._greeter.stop_waiting(self)
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
        if self._admitting is not None:
            self._early.append((frame_type, payload))
            if len(self._early) > _MAX_EARLY:
                self._admitting.cancel()
                self._refuse(lane, Refused(FAILURE_CODE_PROTOCOL, "frames that did not wait for WELCOME"))
            return
        self._greeter.stop_waiting(self)
        try:
            self._admit(lane, frame_type, payload)
        except Refused as refused:
            self._refuse(lane, refused)
        except DecodeError:
            self._refuse(lane, Refused(FAILURE_CODE_PROTOCOL, f"a malformed frame 0x{frame_type:02x}"))

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.refuse(RefusalReason.OTHER, "visits are opened by the node")

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        self._greeter.stop_waiting(self)
        if self._admitting is not None:
            self._admitting.cancel()
        if self._control is not None:
            self._control.lane_closed(lane, error)

    def _admit(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        handler = self._HANDLERS.get(frame_type)
        if self._parked:
            raise Refused(FAILURE_CODE_PROTOCOL, "only frames of visits may follow PARK")
        if handler is None:
            raise Refused(FAILURE_CODE_PROTOCOL, "a lane begins with HELLO or PARK")
        handler(self, lane, payload)

    def _hello(self, lane: Lane, payload: bytes) -> None:
        hello = Hello.FromString(payload)
        _demand_version(hello.version)
        self._admitting = self._greeter.admit(self._admit_control(lane, hello))

    async def _admit_control(self, lane: Lane, hello: Hello) -> None:
        try:
            control = self._control = await self._admission.hello(lane, hello)
        except Refused as refused:
            self._refuse(lane, refused)
            return
        finally:
            self._admitting = None
        early, self._early = self._early, []
        for frame_type, payload in early:
            control.frame_received(lane, frame_type, payload)

    def _park(self, lane: Lane, payload: bytes) -> None:
        park = Park.FromString(payload)
        _demand_version(park.version)
        self._admission.park(lane, park)
        self._parked = True

    _HANDLERS: ClassVar[Mapping[int, Callable[["_GreetingLane", Lane, bytes], None]]] = {
        FrameType.HELLO: _hello,
        FrameType.PARK: _park,
    }

    def _refuse(self, lane: Lane, refused: Refused) -> None:
        self._refused = True
        logger.info("a client's lane is refused", extra={"peer": lane.peer.host, "reason": refused.message})
        lane.fail(refused.failure.SerializeToString())


def _demand_version(version: int) -> None:
    """Raise Refused unless this node speaks the client's version."""
    if version != PROTOCOL_VERSION:
        raise Refused(
            FAILURE_CODE_VERSION,
            f"this node speaks version {PROTOCOL_VERSION} of the lane protocol, the client version {version}: "
            "bring both to the same release",
        )
