"""A node's greeter with fakes around it: connections whose handshake ends when the test says so, who admits them.

Here: newcomers from their arrival until they have said who they are. Not here: their sessions (node_sessions.py).
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from portway_carrier.contract import LaneEvents
from portway_carrier.errors import CarrierError
from portway_carrier.values import Handshake, ServerTls
from portway_proto.v1.lane_pb2 import Hello, Park
from portway_proto.wire.frames import Opening
from portway_proto.wire.lane import Side
from portway_relay.sessions.greeter import Greeter
from portway_runtime.endpoints import Endpoint
from portway_runtime.tls_choices import Group

from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.fake_visits import Pair
from portway_testkit.fakes.node_lanes import FakeLane
from portway_testkit.fakes.node_sessions import until


class FakeStream:
    """A connection whose handshake ends when the test says so."""

    def __init__(self) -> None:
        self.aborted = False
        self._ready: asyncio.Future[Handshake] = asyncio.get_running_loop().create_future()

    async def ready(self) -> Handshake:
        return await self._ready

    def abort(self) -> None:
        self.aborted = True

    def is_ready(self) -> None:
        self._ready.set_result(Handshake("portway-link/1", None, 0.0))

    def fails(self, error: CarrierError) -> None:
        self._ready.set_exception(error)


class FakeCarrier:
    """Gives streams and lanes, and keeps them, with who is told of each lane's frames."""

    def __init__(self) -> None:
        self.streams: list[FakeStream] = []
        self.lanes: list[tuple[FakeLane, LaneEvents]] = []

    def accept(
        self, sock: socket.socket, tls: ServerTls | None, established: Callable[[], None], *, peer: Endpoint
    ) -> FakeStream:
        sock.close()
        self.streams.append(FakeStream())
        return self.streams[-1]

    def lane(self, stream: FakeStream, side: Side, events: LaneEvents, *, greeted: bool) -> FakeLane:
        assert side is Side.OPENER
        assert not greeted
        self.lanes.append((FakeLane(), events))
        return self.lanes[-1][0]


class ControlEvents:
    """A session's LaneEvents, which remember."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def frame_received(self, lane: Any, frame_type: int, payload: bytes) -> None:
        self.told.append((frame_type, payload))

    def opening_received(self, lane: Any, opening: Opening) -> None: ...

    def lane_closed(self, lane: Any, error: CarrierError) -> None:
        self.told.append(error)


class FakeAdmission:
    """Admits everybody, unless it is told why not."""

    def __init__(self) -> None:
        self.control = ControlEvents()
        self.refusal: Exception | None = None
        self.parked: list[Any] = []
        self.hellos: list[Hello] = []
        self.checked = asyncio.Event()  # set unless a test keeps signatures from being checked
        self.checked.set()

    async def hello(self, lane: Any, hello: Hello) -> ControlEvents:
        await self.checked.wait()
        if self.refusal is not None:
            raise self.refusal
        self.hellos.append(hello)
        return self.control

    def park(self, lane: Any, park: Park) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.parked.append(lane)


class Newcomers:
    """A greeter and what is around it."""

    def __init__(
        self, connect: Callable[[], Pair], *, time_limit: float, capacity: int, capacity_per_address: int
    ) -> None:
        self.clock = ManualClock()
        self.carrier = FakeCarrier()
        self.admission = FakeAdmission()
        self.failures: list[BaseException] = []
        self.settled = 0
        self._connect = connect
        self.greeter = Greeter(
            self.carrier,  # type: ignore[arg-type]
            lambda group: ServerTls(b"", b"", group=group),
            self.admission,
            time_limit=time_limit,
            capacity=capacity,
            capacity_per_address=capacity_per_address,
            clock=self.clock,
            on_failure=self.failures.append,
        )

    async def arrive(self) -> tuple[FakeLane, LaneEvents]:
        """A lane whose handshake is done."""
        count = len(self.carrier.lanes)
        self.take()
        await until(lambda: bool(self.carrier.streams))
        self.carrier.streams[-1].is_ready()
        await until(lambda: len(self.carrier.lanes) > count)
        return self.carrier.lanes[-1]

    def take(self, host: str = "192.0.2.1") -> None:
        self.greeter.accept(self._connect()[0], Endpoint(host, 4711), Group.X25519, self._settled)

    def _settled(self) -> None:
        self.settled += 1
