"""The client's side of the control lane, without I/O: the frames to send, and the events that received frames mean.

States: before WELCOME, and after it. A frame that is out of order or cannot be parsed raises RemoteProtocolError, and
so does a public address that is not this tunnel's: programs print and open what a node says here. Not here: waiting for
answers (session.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from google.protobuf.message import DecodeError, Message
from portway_proto.v1 import lane_pb2
from portway_proto.wire.errors import RemoteProtocolError
from portway_proto.wire.frames import FrameType
from portway_proto.wire.labels import Label
from portway_proto.wire.limits import PROTOCOL_VERSION
from portway_proto.wire.statements import Claim, Presence
from portway_runtime.endpoints import MAX_PORT, is_host
from portway_runtime.version import VERSION

from portway.engine.failures import Failure, read_failure

M = TypeVar("M", bound=Message)

Frame = tuple[FrameType, bytes]


@dataclass(frozen=True, slots=True)
class SessionCredentials:
    """Identifies a session and proves that it is this client's: sent in PARK and in the HELLO that resumes it."""

    id: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BindRequest:
    """A tunnel to bind. `unencrypted`: with a raw port; `ticket` asks for that of an earlier BOUND. `host`: of its URL,
    "" before it has one."""

    claim: Claim
    unencrypted: bool = False
    ticket: bytes = b""
    host: str = ""

    @property
    def label(self) -> Label:
        return self.claim.label


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The node accepted the session. Times in seconds, `node_time` since the Unix epoch; `max_lanes` 0: no limit."""

    credentials: SessionCredentials
    resumed: bool
    resume_seconds: float
    max_lanes: int
    node_time: float


@dataclass(frozen=True, slots=True)
class TunnelBound:
    """The answer to BIND number `request`. `ticket` asks for the same raw port at the next BIND.

    host: the tunnel's label in the node's zone. unencrypted_host: a DNS name or an IP address, "" without a raw port.
    """

    request: int
    host: str
    port: int
    unencrypted_host: str
    unencrypted_port: int
    ticket: bytes


@dataclass(frozen=True, slots=True)
class TunnelRefused:
    """BIND number `request` was refused. `claim`, with EPOCH, is said to own the label; nothing of it was checked."""

    request: int
    failure: Failure
    claim: bytes = b""


@dataclass(frozen=True, slots=True)
class TunnelUnbound:
    """The node unbound a tunnel by itself. `claim`: as in TunnelRefused."""

    label: str
    failure: Failure
    claim: bytes = b""


@dataclass(frozen=True, slots=True)
class LanesWanted:
    """The node asks for this number of further data lanes."""

    lanes: int


@dataclass(frozen=True, slots=True)
class NodeLeaves:
    """The node asks the client to leave it for another node."""

    failure: Failure


Event = Welcomed | TunnelBound | TunnelRefused | TunnelUnbound | LanesWanted | NodeLeaves


class Dialogue:
    """The dialogue on one control lane, from HELLO on."""

    def __init__(self, zone: str) -> None:
        """`zone`: `<region>.<domain>` of the node, as a registry has it; every address is a label in it."""
        self._zone = zone
        self._request = 0
        self._unanswered: dict[int, BindRequest] = {}  # by request number
        self._credentials: SessionCredentials | None = None

    def hello(self, grant: str, signature: bytes, resume: SessionCredentials | None) -> Frame:
        """The first frame: begins a session, or continues the session `resume`. `signature`: for this node."""
        message = lane_pb2.Hello(version=PROTOCOL_VERSION, grant=grant, client_version=VERSION, signature=signature)
        if resume is not None:
            message.session_id, message.session_secret = resume.id, resume.secret
        return FrameType.HELLO, message.SerializeToString()

    def bind(self, bind: BindRequest) -> tuple[int, Frame]:
        """The request number that its answer will carry, and the frame."""
        self._request += 1
        self._unanswered[self._request] = bind
        message = lane_pb2.Bind(request=self._request, claim=bind.claim.encoded, ticket=bind.ticket, host=bind.host)
        return self._request, (FrameType.BIND, message.SerializeToString())

    @staticmethod
    def unbind(label: str) -> Frame:
        """The tunnel is closed."""
        return FrameType.UNBIND, lane_pb2.Unbind(label=label).SerializeToString()

    @staticmethod
    def present(presence: Presence, grant: str) -> Frame:
        """What the session holds. `grant`: a new one, "" if the node has seen it."""
        message = lane_pb2.Presence(statement=presence.encoded, grant=grant)
        return FrameType.PRESENCE, message.SerializeToString()

    @staticmethod
    def moved(claim: Claim, presence: Presence) -> Frame:
        """The tunnel is bound at the node that these two name now."""
        message = lane_pb2.Moved(label=claim.label, claim=claim.encoded, presence=presence.encoded)
        return FrameType.MOVED, message.SerializeToString()

    @staticmethod
    def goaway() -> Frame:
        """The client leaves for good."""
        return FrameType.GOAWAY, lane_pb2.Goaway().SerializeToString()

    @staticmethod
    def park(credentials: SessionCredentials) -> Frame:
        """The first frame of each data lane."""
        message = lane_pb2.Park(version=PROTOCOL_VERSION, session_id=credentials.id, session_secret=credentials.secret)
        return FrameType.PARK, message.SerializeToString()

    def receive(self, frame_type: int, payload: bytes) -> Event:
        """The event that a received frame means. Raises RemoteProtocolError, after which the lane is of no use."""
        if self._credentials is None and frame_type != FrameType.WELCOME:
            raise RemoteProtocolError(f"frame 0x{frame_type:02x} before WELCOME")
        handler = self._HANDLERS.get(frame_type)
        if handler is None:
            raise RemoteProtocolError(f"frame 0x{frame_type:02x} is not a node's to send")
        return handler(self, payload)

    def _welcome(self, payload: bytes) -> Welcomed:
        message = _read(lane_pb2.Welcome, payload)
        if self._credentials is not None:
            raise RemoteProtocolError("WELCOME twice")
        if not message.session_id or not message.session_secret:
            raise RemoteProtocolError("WELCOME without a session")
        self._credentials = SessionCredentials(message.session_id, message.session_secret)
        return Welcomed(
            self._credentials,
            message.resumed,
            float(message.resume_seconds),
            message.max_lanes,
            message.node_time_ms / 1000,
        )

    def _bound(self, payload: bytes) -> TunnelBound:
        message = _read(lane_pb2.Bound, payload)
        bind = self._answered(message.request)
        if message.host != f"{bind.label}.{self._zone}" or not 1 <= message.port <= MAX_PORT:
            raise RemoteProtocolError("BOUND with an address that is not this tunnel's")
        if message.unencrypted_port or message.unencrypted_host:
            _check_raw_address(bind, message)
        return TunnelBound(
            message.request,
            message.host,
            message.port,
            message.unencrypted_host,
            message.unencrypted_port,
            message.ticket,
        )

    def _bind_refused(self, payload: bytes) -> TunnelRefused:
        message = _read(lane_pb2.BindRefused, payload)
        self._answered(message.request)
        return TunnelRefused(message.request, read_failure(message.failure), message.claim)

    def _unbound(self, payload: bytes) -> TunnelUnbound:
        message = _read(lane_pb2.Unbound, payload)
        return TunnelUnbound(message.label, read_failure(message.failure), message.claim)

    def _want(self, payload: bytes) -> LanesWanted:
        return LanesWanted(_read(lane_pb2.Want, payload).lanes)

    def _goaway(self, payload: bytes) -> NodeLeaves:
        return NodeLeaves(read_failure(_read(lane_pb2.Goaway, payload).failure))

    _HANDLERS: ClassVar[Mapping[int, Callable[["Dialogue", bytes], Event]]] = {
        FrameType.WELCOME: _welcome,
        FrameType.BOUND: _bound,
        FrameType.BIND_REFUSED: _bind_refused,
        FrameType.UNBOUND: _unbound,
        FrameType.WANT: _want,
        FrameType.GOAWAY: _goaway,
    }

    def _answered(self, request: int) -> BindRequest:
        """The BIND of this number, which has its answer now."""
        bind = self._unanswered.pop(request, None)
        if bind is None:
            raise RemoteProtocolError(f"an answer to request {request}, which does not wait for one")
        return bind


def _check_raw_address(bind: BindRequest, message: lane_pb2.Bound) -> None:
    """A raw port's host is the operator's choice for the region, which the client cannot know; its form is checked."""
    if not bind.unencrypted:
        raise RemoteProtocolError("BOUND with a raw port that was not asked for")
    if not is_host(message.unencrypted_host) or not 1 <= message.unencrypted_port <= MAX_PORT:
        raise RemoteProtocolError("BOUND with an unencrypted address that is none")


def _read(kind: type[M], payload: bytes) -> M:
    try:
        return kind.FromString(payload)
    except DecodeError:
        raise RemoteProtocolError(f"a malformed {kind.DESCRIPTOR.name}") from None
