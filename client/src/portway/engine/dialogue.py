"""The client's side of the control lane, without I/O: what to send, and what it means that something arrived.

States: before WELCOME, and after it. Frames of a node that break the order, or that cannot be read, raise
RemoteProtocolError. Not here: waiting for answers (session.py).
"""

from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from portway_proto.v1 import lane_pb2, types_pb2
from portway_proto.wire.errors import RemoteProtocolError
from portway_proto.wire.frames import FrameType
from portway_proto.wire.limits import PROTOCOL_VERSION

from portway.engine.failures import Failure, read_failure
from portway.version import VERSION

M = TypeVar("M", bound=Message)

Frame = tuple[FrameType, bytes]


@dataclass(frozen=True, slots=True)
class SessionKey:
    """What names a session and proves that it is ours: shown by PARK and by the HELLO that resumes it."""

    id: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BindRequest:
    """A tunnel to bind, with its epoch and the proof of it."""

    label: str
    epoch: int
    proof: bytes
    unencrypted: bool = False
    h2_enabled: bool = False
    ticket: bytes = b""


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The node took the session. Times are in seconds; `max_lanes` 0 is no limit of the node's."""

    key: SessionKey
    resumed: bool
    node: str
    region: str
    resume_seconds: float
    max_lanes: int
    node_time: float


@dataclass(frozen=True, slots=True)
class TunnelBound:
    """The answer to one BIND. `ticket` asks for the same raw port the next time."""

    request: int
    host: str
    port: int
    unencrypted_host: str
    unencrypted_port: int
    ticket: bytes


@dataclass(frozen=True, slots=True)
class TunnelRefused:
    request: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class TunnelUnbound:
    """The node let go of a tunnel."""

    label: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class LanesWanted:
    lanes: int


@dataclass(frozen=True, slots=True)
class NodeLeaves:
    """The node asks to be left."""

    failure: Failure


Event = Welcomed | TunnelBound | TunnelRefused | TunnelUnbound | LanesWanted | NodeLeaves


class Dialogue:
    """One control lane's, from HELLO on."""

    def __init__(self) -> None:
        self._request = 0
        self._key: SessionKey | None = None

    def hello(self, grant: str, resume: SessionKey | None) -> Frame:
        message = lane_pb2.Hello(version=PROTOCOL_VERSION, grant=grant, client_version=VERSION)
        if resume is not None:
            message.session_id, message.session_secret = resume.id, resume.secret
        return FrameType.HELLO, message.SerializeToString()

    def bind(self, bind: BindRequest) -> tuple[int, Frame]:
        """The number its answer will carry, and the frame."""
        self._request += 1
        options = types_pb2.TunnelOptions(h2_enabled=bind.h2_enabled, unencrypted=bind.unencrypted)
        message = lane_pb2.Bind(
            request=self._request,
            label=bind.label,
            epoch=bind.epoch,
            proof=bind.proof,
            options=options,
            ticket=bind.ticket,
        )
        return self._request, (FrameType.BIND, message.SerializeToString())

    @staticmethod
    def unbind(label: str) -> Frame:
        return FrameType.UNBIND, lane_pb2.Unbind(label=label).SerializeToString()

    @staticmethod
    def moved(label: str, node: str, epoch: int, proof: bytes) -> Frame:
        """The tunnel is bound at that other node now, with this epoch."""
        message = lane_pb2.Moved(label=label, node=node, epoch=epoch, proof=proof)
        return FrameType.MOVED, message.SerializeToString()

    @staticmethod
    def goaway() -> Frame:
        """The client leaves for good."""
        return FrameType.GOAWAY, lane_pb2.Goaway().SerializeToString()

    @staticmethod
    def park(key: SessionKey) -> Frame:
        """The greeting of each data lane."""
        message = lane_pb2.Park(version=PROTOCOL_VERSION, session_id=key.id, session_secret=key.secret)
        return FrameType.PARK, message.SerializeToString()

    def receive(self, frame_type: int, payload: bytes) -> Event:
        """What a frame of the node says. Raises RemoteProtocolError; the lane is of no use after that."""
        if frame_type == FrameType.WELCOME:
            return self._welcome(_read(lane_pb2.Welcome, payload))
        if self._key is None:
            raise RemoteProtocolError(f"frame 0x{frame_type:02x} before WELCOME")
        if frame_type == FrameType.BOUND:
            return self._bound(_read(lane_pb2.Bound, payload))
        if frame_type == FrameType.BIND_REFUSED:
            refused = _read(lane_pb2.BindRefused, payload)
            return TunnelRefused(self._known(refused.request), read_failure(refused.failure))
        if frame_type == FrameType.UNBOUND:
            unbound = _read(lane_pb2.Unbound, payload)
            return TunnelUnbound(unbound.label, read_failure(unbound.failure))
        if frame_type == FrameType.WANT:
            return LanesWanted(_read(lane_pb2.Want, payload).lanes)
        if frame_type == FrameType.GOAWAY:
            return NodeLeaves(read_failure(_read(lane_pb2.Goaway, payload).failure))
        raise RemoteProtocolError(f"frame 0x{frame_type:02x} is not a node's to send")

    def _welcome(self, message: lane_pb2.Welcome) -> Welcomed:
        if self._key is not None:
            raise RemoteProtocolError("WELCOME twice")
        if not message.session_id or not message.session_secret:
            raise RemoteProtocolError("WELCOME without a session")
        self._key = SessionKey(message.session_id, message.session_secret)
        return Welcomed(
            self._key,
            message.resumed,
            message.node,
            message.region,
            float(message.resume_seconds),
            message.max_lanes,
            message.node_time_ms / 1000,
        )

    def _bound(self, message: lane_pb2.Bound) -> TunnelBound:
        if not message.host or not 1 <= message.port <= 65535 or message.unencrypted_port > 65535:
            raise RemoteProtocolError("BOUND without an address")
        return TunnelBound(
            self._known(message.request),
            message.host,
            message.port,
            message.unencrypted_host,
            message.unencrypted_port,
            message.ticket,
        )

    def _known(self, request: int) -> int:
        if not 1 <= request <= self._request:
            raise RemoteProtocolError(f"an answer to request {request}, which was never made")
        return request


def _read(kind: type[M], payload: bytes) -> M:
    try:
        return kind.FromString(payload)
    except DecodeError:
        raise RemoteProtocolError(f"a malformed {kind.DESCRIPTOR.name}") from None
