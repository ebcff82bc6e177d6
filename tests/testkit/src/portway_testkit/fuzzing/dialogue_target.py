"""The client's side of the control lane as a fuzz target."""

from functools import cache
from typing import Final, get_args

from google.protobuf.message import Message
from portway.engine.dialogue import (
    BindRequest,
    Dialogue,
    Event,
    LanesWanted,
    TunnelBound,
    TunnelRefused,
    Welcomed,
)
from portway_proto.v1 import lane_pb2
from portway_proto.wire.errors import RemoteProtocolError
from portway_proto.wire.frames import FrameType, encode_frame
from portway_proto.wire.statements import SigningKey

from portway_testkit.fuzzing.lane_target import frame_seeds, read
from portway_testkit.fuzzing.target import Target, cuts
from portway_testkit.signers import SessionSigner

_BINDS: Final = 3
_CLAIM: Final = SessionSigner(key=SigningKey(bytes(32))).claim(SigningKey(bytes(32)), node="relay-1")
_LABEL: Final = _CLAIM.label
_ZONE: Final = "fra.example.com"
_WELCOME: Final = lane_pb2.Welcome(
    session_id=b"i" * 16, session_secret=b"s" * 32, node="relay-1", region="fra", resume_seconds=60, max_lanes=4096
)
_FAILURE: Final = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_EPOCH, message="bound elsewhere")


def _frame(frame_type: FrameType, message: Message) -> bytes:
    return encode_frame(frame_type, message.SerializeToString(deterministic=True))


@cache
def _seeds() -> tuple[bytes, ...]:
    welcome = _frame(FrameType.WELCOME, _WELCOME)
    bound = lane_pb2.Bound(request=1, host=f"{_LABEL}.{_ZONE}", port=443, ticket=b"t")
    raw = lane_pb2.Bound(
        request=2, host=f"{_LABEL}.{_ZONE}", port=443, unencrypted_host="192.0.2.1", unencrypted_port=20_001
    )
    unasked = lane_pb2.Bound(request=_BINDS + 1, host=f"{_LABEL}.{_ZONE}", port=443)
    later = [
        _frame(FrameType.BOUND, unasked),
        _frame(FrameType.BOUND, bound),
        _frame(FrameType.BOUND, raw),
        _frame(FrameType.BIND_REFUSED, lane_pb2.BindRefused(request=3, failure=_FAILURE, claim=_CLAIM.encoded)),
        _frame(FrameType.UNBOUND, lane_pb2.Unbound(label=_LABEL, failure=_FAILURE, claim=_CLAIM.encoded)),
        _frame(FrameType.WANT, lane_pb2.Want(lanes=3)),
        _frame(FrameType.GOAWAY, lane_pb2.Goaway(failure=_FAILURE)),
    ]
    return (welcome + b"".join(later[1:]), *(welcome + frame for frame in later), *later, *frame_seeds())


def _check(data: bytes) -> None:
    dialogue, welcomed = Dialogue(_ZONE), False
    for _ in range(_BINDS):
        dialogue.bind(BindRequest(_CLAIM, unencrypted=True))
    frames, _ = read(next(cuts(data)))
    for frame_type, payload in frames:
        if frame_type == FrameType.DATA:
            continue
        try:
            event = dialogue.receive(frame_type, payload)
        except RemoteProtocolError:
            return
        assert isinstance(event, get_args(Event))
        assert welcomed is not isinstance(event, Welcomed), "WELCOME comes first, and once"
        welcomed = True
        _check_event(event)


def _check_event(event: Event) -> None:
    if isinstance(event, Welcomed):
        assert event.credentials.id
        assert event.credentials.secret
        assert event.resume_seconds >= 0
    elif isinstance(event, TunnelBound):
        assert event.host == f"{_LABEL}.{_ZONE}"
        assert 1 <= event.port <= 65_535
        assert event.unencrypted_host.isprintable()
        assert 0 <= event.unencrypted_port <= 65_535
    elif isinstance(event, LanesWanted):
        assert event.lanes >= 0
    else:
        assert event.failure.message.isprintable()
        assert event.failure.error().args
    if isinstance(event, TunnelBound | TunnelRefused):
        assert 1 <= event.request <= _BINDS


DIALOGUE: Final = Target(
    "dialogue",
    "Whatever a node sends on the control lane, each frame becomes an event with values that can be used, after one "
    "WELCOME and about requests that were made, or raises RemoteProtocolError.",
    _seeds,
    _check,
)
