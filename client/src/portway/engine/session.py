"""Session: the control lane of one connection. Requests that wait for answers, unsolicited events, and its end.

Not here: what to do after the end (link.py), data lanes (data_lanes.py), what frames mean (dialogue.py).
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
from portway_proto.wire.statements import Claim, Presence
from portway_runtime.tasks import fail

from portway.engine.dialogue import (
    BindRequest,
    Dialogue,
    LanesWanted,
    NodeLeaves,
    SessionCredentials,
    TunnelBound,
    TunnelRefused,
    TunnelUnbound,
    Welcomed,
)
from portway.engine.directory import Node
from portway.engine.failures import Failure, read_failure

T = TypeVar("T")

# Seconds. A node that has completed the TLS handshake answers HELLO and BIND by itself, within a round trip.
ANSWER_TIMEOUT: Final = 5.0


class SessionOver(Exception):
    """The control lane has ended. `failure` is the node's reason, if it gave one."""

    def __init__(self, message: str, failure: Failure | None = None) -> None:
        super().__init__(message)
        self.failure = failure


class BindRefused(Exception):
    """The node did not bind the tunnel. `claim`: what it says owns the label instead, unchecked."""

    def __init__(self, failure: Failure, claim: bytes = b"") -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.claim = claim


@dataclass(frozen=True, slots=True)
class End:
    """How a session ended.

    leaving: the session is to be left for another node, and its lane is still up. silent: nothing was received from
    the node for too long. broken: the node broke the protocol, and would do so again.
    """

    reason: str
    failure: Failure | None = None
    leaving: bool = False
    silent: bool = False
    broken: bool = False


_CLOSED_HERE: Final = End("closed here")


class SessionEvents(Protocol):
    """What a session reports to its owner besides answers."""

    def tunnel_unbound(self, session: "Session", label: str, failure: Failure, claim: bytes) -> None:
        """The node unbound a tunnel by itself. `claim`: what it says owns the label instead, unchecked."""

    def lanes_wanted(self, session: "Session", lanes: int) -> None:
        """The node asks for this number of further data lanes."""


class Session:
    """The control lane with one node; receives that lane's events (LaneEvents)."""

    def __init__(self, carrier: Carrier, stream: Stream, events: SessionEvents, node: Node) -> None:
        """Frame `stream`, which is ready and leads to `node`. Raises CarrierError if it was lost meanwhile."""
        self.node = node
        self._dialogue = Dialogue(node.zone)
        self._grant_shown = ""
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
    def credentials(self) -> SessionCredentials:
        """Known from WELCOME on."""
        return self._welcome.result().credentials

    async def hello(self, grant: str, signature: bytes, resume: SessionCredentials | None) -> Welcomed:
        """Begin a session, or continue the session `resume`. `signature`: Signer.greeting. Raises SessionOver."""
        self._grant_shown = grant
        self._lane.send(*self._dialogue.hello(grant, signature, resume))
        return await self._wait_for(self._welcome, "HELLO")

    async def bind(self, bind: BindRequest) -> TunnelBound:
        """Bind a tunnel: one round trip. Raises BindRefused, SessionOver.

        Cancelled, the tunnel may be bound nevertheless: send `unbind`.
        """
        if not self.up:
            end = self._over.result()
            raise SessionOver(end.reason, end.failure)
        request, frame = self._dialogue.bind(bind)
        answer: asyncio.Future[TunnelBound] = asyncio.get_running_loop().create_future()
        self._answers[request] = answer
        self._lane.send(*frame)
        try:
            return await self._wait_for(answer, "BIND")
        finally:
            del self._answers[request]

    def unbind(self, label: str) -> None:
        """Close a tunnel; there is no answer."""
        self._lane.send(*self._dialogue.unbind(label))

    def present(self, presence: Presence, grant: str) -> None:
        """Tell the node what this session holds, and show the newest grant unless it has seen that one."""
        self._lane.send(*self._dialogue.present(presence, "" if grant == self._grant_shown else grant))
        self._grant_shown = grant

    def moved(self, claim: Claim, presence: Presence) -> None:
        """Tell the node where a tunnel of this session is bound now: it forwards visitors that still arrive."""
        self._lane.send(*self._dialogue.moved(claim, presence))

    def leave_for_another(self, reason: str) -> None:
        """End it as a node's GOAWAY does: it serves on until another node has its tunnels."""
        self._end(End(reason, leaving=True))

    async def over(self) -> End:
        """Wait for the session's end."""
        return await asyncio.shield(self._over)

    async def closed(self) -> None:
        """Wait until the lane is closed. A node that asked the client to leave serves until then."""
        await self._closed.wait()

    def leave(self) -> None:
        """Send GOAWAY, and close: the session cannot be resumed."""
        self._lane.send(*self._dialogue.goaway())
        self.drop()

    def drop(self, end: End = _CLOSED_HERE) -> None:
        """Close without GOAWAY: the session can be resumed."""
        self._lane.close()
        self._end(end)

    async def _wait_for(self, answer: "asyncio.Future[T]", to: str) -> T:
        """A node that does not answer in time is dropped: it may be alive, but is of no use."""
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
            failure = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_PROTOCOL, message=str(error))
            self._lane.fail(failure.SerializeToString())
            self._end(End(f"it broke the protocol: {error}", broken=True))
            return
        match event:
            case Welcomed():
                if not self._welcome.done():
                    self._welcome.set_result(event)
            case TunnelBound():
                if (answer := self._pending(event.request)) is not None:
                    answer.set_result(event)
            case TunnelRefused():
                if (answer := self._pending(event.request)) is not None:
                    fail(answer, BindRefused(event.failure, event.claim))
            case TunnelUnbound():
                # One loop iteration later: the task that waits for this label's BOUND was woken but has not run yet.
                loop = asyncio.get_running_loop()
                loop.call_soon(self._events.tunnel_unbound, self, event.label, event.failure, event.claim)
            case LanesWanted():
                self._events.lanes_wanted(self, event.lanes)
            case NodeLeaves():
                self._end(End(event.failure.text, event.failure, leaving=True))

    def _pending(self, request: int) -> "asyncio.Future[TunnelBound] | None":
        """The answer that a task still waits for."""
        answer = self._answers.get(request)
        return None if answer is None or answer.done() else answer

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.refuse(RefusalReason.OTHER, "visits come on data lanes")

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        self._closed.set()
        failure = failure_of(error)
        reason = failure.text if failure is not None else str(error)
        self._end(End(reason, failure, silent=isinstance(error, PeerSilent)))

    def _end(self, end: End) -> None:
        """The first end counts."""
        if self._over.done():
            return
        self._over.set_result(end)
        waiters: list[asyncio.Future[Any]] = [self._welcome, *self._answers.values()]
        for waiting in waiters:
            fail(waiting, SessionOver(end.reason, end.failure))


def failure_of(error: CarrierError) -> Failure | None:
    """The node's reason, if the lane ended with FAIL."""
    if not isinstance(error, PeerFailed):
        return None
    try:
        return read_failure(lane_pb2.Failure.FromString(error.payload))
    except DecodeError:
        return None
