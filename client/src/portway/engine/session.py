"""One connection's control lane: requests that wait for their answers, what the node says unasked, its end.

Not here: what to do when it has ended (reconnect.py), data lanes (lanes.py), what frames mean (dialogue.py).
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError
from portway_carrier.contract import Carrier, Lane, Stream
from portway_carrier.errors import CarrierError, PeerFailed, PeerSilent
from portway_proto.v1 import lane_pb2
from portway_proto.wire.errors import RemoteProtocolError
from portway_proto.wire.frames import Opening, RefusalReason
from portway_proto.wire.lane import Side

from portway.engine.dialogue import (
    BindRequest,
    Dialogue,
    LanesWanted,
    NodeLeaves,
    SessionKey,
    TunnelBound,
    TunnelRefused,
    TunnelUnbound,
    Welcomed,
)
from portway.engine.failures import Failure, read_failure

T = TypeVar("T")

# A node that has done the TLS handshake answers HELLO and BIND within a round trip; it asks nobody.
ANSWER_TIMEOUT: Final = 5.0


class SessionOver(Exception):
    """The control lane has ended. `failure` is what the node gave as its reason, if it gave one."""

    def __init__(self, message: str, failure: Failure | None = None) -> None:
        super().__init__(message)
        self.failure = failure


class BindRefused(Exception):
    """The node did not bind the tunnel."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class End:
    """How a session ended. `leaving`: the node asked to be left and its lane is still up. `silent`: the node was not
    heard of any more."""

    reason: str
    failure: Failure | None = None
    leaving: bool = False
    silent: bool = False


_CLOSED_HERE: Final = End("closed here")


class SessionEvents(Protocol):
    """What a session's owner is told that it did not ask for."""

    def tunnel_unbound(self, session: "Session", label: str, failure: Failure) -> None: ...

    def lanes_wanted(self, session: "Session", lanes: int) -> None: ...


class Session:
    """The control lane with one node. Also the LaneEvents of that lane."""

    def __init__(self, carrier: Carrier, stream: Stream, events: SessionEvents) -> None:
        """Frame `stream`, which is ready. Raises CarrierError when it has been lost meanwhile."""
        self._dialogue = Dialogue()
        self._events = events
        self._answers: dict[int, asyncio.Future[TunnelBound]] = {}
        loop = asyncio.get_running_loop()
        self._welcome: asyncio.Future[Welcomed] = loop.create_future()
        self._over: asyncio.Future[End] = loop.create_future()
        self._closed = asyncio.Event()
        self._lane = carrier.lane(stream, Side.ACCEPTOR, self)

    @property
    def up(self) -> bool:
        return not self._over.done()

    @property
    def key(self) -> SessionKey:
        """Known from WELCOME on."""
        return self._welcome.result().key

    async def hello(self, grant: str, resume: SessionKey | None) -> Welcomed:
        """Begin the session, or go on with `resume`. Raises SessionOver."""
        self._lane.send(*self._dialogue.hello(grant, resume))
        return await self._answer(self._welcome, "HELLO")

    async def bind(self, bind: BindRequest) -> TunnelBound:
        """Bind a tunnel: one round trip. Raises BindRefused, SessionOver.

        Cancelled, the tunnel may be bound nevertheless: `unbind` follows.
        """
        if not self.up:
            end = self._over.result()
            raise SessionOver(end.reason, end.failure)
        request, frame = self._dialogue.bind(bind)
        answer: asyncio.Future[TunnelBound] = asyncio.get_running_loop().create_future()
        self._answers[request] = answer
        self._lane.send(*frame)
        try:
            return await self._answer(answer, "BIND")
        finally:
            del self._answers[request]

    def unbind(self, label: str) -> None:
        self._lane.send(*self._dialogue.unbind(label))

    def moved(self, label: str, node: str, epoch: int, proof: bytes) -> None:
        """Say at which other node a tunnel of this session is now: visitors that still come here are sent there."""
        self._lane.send(*self._dialogue.moved(label, node, epoch, proof))

    async def over(self) -> End:
        """Wait for its end."""
        return await asyncio.shield(self._over)

    async def closed(self) -> None:
        """Wait until its lane is closed: a node that asked to be left serves until then."""
        await self._closed.wait()

    def leave(self) -> None:
        """Say that the client leaves for good, and close."""
        self._lane.send(*self._dialogue.goaway())
        self.drop()

    def drop(self, end: End = _CLOSED_HERE) -> None:
        """Close without a word: the session may be resumed."""
        self._lane.close()
        self._end(end)

    async def _answer(self, answer: "asyncio.Future[T]", to: str) -> T:
        """Wait for it. A node that does not answer in time is left: it may be alive and no use."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await answer
        except TimeoutError:
            reason = f"it did not answer {to} within {ANSWER_TIMEOUT:g} s"
            self.drop(End(reason))
            raise SessionOver(reason) from None

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        try:
            event = self._dialogue.receive(frame_type, payload)
        except RemoteProtocolError as error:
            self._lane.fail(
                lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_PROTOCOL, message=str(error)).SerializeToString()
            )
            self._end(End(f"it broke the protocol: {error}"))
            return
        match event:
            case Welcomed():
                if not self._welcome.done():
                    self._welcome.set_result(event)
            case TunnelBound(request=request):
                answer = self._answers.get(request)
                if answer is not None and not answer.done():
                    answer.set_result(event)
            case TunnelRefused(request=request, failure=failure):
                answer = self._answers.get(request)
                if answer is not None and not answer.done():
                    answer.set_exception(BindRefused(failure))
            case TunnelUnbound(label=label, failure=failure):
                # One turn later, for who waits for this label's BOUND has been woken, but has not run yet.
                asyncio.get_running_loop().call_soon(self._events.tunnel_unbound, self, label, failure)
            case LanesWanted(lanes=lanes):
                self._events.lanes_wanted(self, lanes)
            case NodeLeaves(failure=failure):
                self._end(End(failure.text, failure, leaving=True))

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.refuse(RefusalReason.OTHER, "visits come on data lanes")

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        self._closed.set()
        failure = failure_of(error)
        reason = failure.text if failure is not None else str(error)
        self._end(End(reason, failure, silent=isinstance(error, PeerSilent)))

    def _end(self, end: End) -> None:
        if self._over.done():
            return
        self._over.set_result(end)
        waiters: list[asyncio.Future[Any]] = [self._welcome, *self._answers.values()]
        for waiting in waiters:
            if not waiting.done():
                waiting.set_exception(SessionOver(end.reason, end.failure))
                waiting.exception()  # somebody may have stopped waiting: that is no news


def failure_of(error: CarrierError) -> Failure | None:
    """The reason that came with FAIL, if that was the end."""
    if not isinstance(error, PeerFailed):
        return None
    try:
        return read_failure(lane_pb2.Failure.FromString(error.payload))
    except DecodeError:
        return None
