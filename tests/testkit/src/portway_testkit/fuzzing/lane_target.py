"""The frame reader, the state of a lane and the payload of OPEN as fuzz targets."""

from collections.abc import Iterable
from functools import cache
from ipaddress import ip_address
from random import Random
from typing import Final

from portway_proto.wire.errors import RemoteProtocolError
from portway_proto.wire.frames import (
    FIRST_SKIPPABLE,
    FrameReader,
    FrameType,
    Opening,
    RefusalReason,
    VisitKind,
    decode_number,
    decode_open,
    decode_refused,
    encode_number,
    encode_open,
)
from portway_proto.wire.lane import (
    VISIT_FRAMES,
    Ending,
    Event,
    LaneState,
    Phase,
    Side,
    Take,
    VisitEnded,
    VisitOpened,
    VisitOpening,
    VisitRefused,
    VisitReset,
)
from portway_proto.wire.limits import HEADER_SIZE, MAX_CONTROL, MAX_VISIT_FRAME

from portway_testkit.fuzzing.target import Target, chance_of, cuts
from portway_testkit.wire_spec import table, vectors

Frame = tuple[int, bytes]

_OPENING: Final = Opening("k5zq2w7b3xav6mdy", "203.0.113.9", 50_000)
_COMMANDS: Final = 0.3  # share of commands in what happens to a lane; the others are frames that arrive


@cache
def frame_seeds() -> tuple[bytes, ...]:
    """Every frame of the vectors, all of them in sequence, what arrives in each sequence, and invalid frames."""
    frames = [bytes.fromhex(frame["hex"]) for frame in vectors("frames")["frames"]]
    arriving = [
        b"".join(bytes.fromhex(step["receives"]) for step in steps if step["at"] == side and "receives" in step)
        for steps in (sequence["steps"] for sequence in vectors("lane_sequences")["sequences"])
        for side in ("opener", "acceptor")
    ]
    malformed = [bytes.fromhex(case["hex"]) for case in vectors("malformed")["cases"]]
    return (b"".join(frames), *frames, *arriving, *malformed)


def read(pieces: Iterable[bytes]) -> tuple[list[Frame], str]:
    """The frames of these pieces with adjacent DATA joined, and the error that ended them."""
    reader, frames = FrameReader(), list[Frame]()
    try:
        for piece in pieces:
            for frame_type, payload in reader.feed(piece):
                if frame_type == FrameType.DATA and frames and frames[-1][0] == FrameType.DATA:
                    frames[-1] = (frame_type, frames[-1][1] + payload)
                else:
                    frames.append((frame_type, bytes(payload)))
    except RemoteProtocolError as error:
        return frames, f"{type(error).__name__}: {error}"
    return frames, ""


@cache
def _limits() -> dict[int, int]:
    """The limits of each type's payload in the specification's table."""
    return {int(row["code"], 16): int(row["largest payload"]) for row in table("code", "type", "sent by")}


def specified(data: bytes) -> tuple[list[Frame], str]:
    """A simple reading of these bytes by WIRE.md: the frames before the first error, and its kind."""
    frames, at = list[Frame](), 0
    while at + HEADER_SIZE <= len(data):
        frame_type, size = data[at], int.from_bytes(data[at + 1 : at + HEADER_SIZE])
        limit = _limits().get(frame_type, MAX_CONTROL if frame_type >= FIRST_SKIPPABLE else -1)
        if size > limit:
            return frames, "RemoteProtocolError" if limit < 0 else "FrameTooLarge"
        payload = data[at + HEADER_SIZE : at + HEADER_SIZE + size]
        at += HEADER_SIZE + size
        if frame_type == FrameType.DATA:
            if payload and frames and frames[-1][0] == FrameType.DATA:
                frames[-1] = (frame_type, frames[-1][1] + payload)
            elif payload:
                frames.append((frame_type, payload))
        elif frame_type in _limits() and len(payload) == size:
            frames.append((frame_type, payload))
    return frames, ""


def _check_frames(data: bytes) -> None:
    expected, expected_kind = specified(data)
    at_once, error = read([data])
    assert error.partition(":")[0] == expected_kind
    assert error or at_once == expected
    for pieces in cuts(data):
        frames, cut_error = read(pieces)
        assert cut_error == error, f"{cut_error or 'no error'} in pieces, {error or 'no error'} at once"
        # Frames in the same piece as an error are lost with it; byte by byte, none is lost.
        if not error or all(len(piece) == 1 for piece in pieces):
            assert frames == expected
    if FrameReader().whole_data(data):
        assert at_once == [(FrameType.DATA, data[HEADER_SIZE:])]


def _check_lane(data: bytes) -> None:
    pieces = next(cuts(data))
    frames, _ = read(pieces)
    for side in Side:
        _drive(LaneState(side), frames, chance_of(data))


def _drive(state: LaneState, frames: list[Frame], chance: Random) -> None:
    """Let the frames arrive between commands until one is an error."""
    for frame_type, payload in frames:
        while chance.random() < _COMMANDS:
            _command(state, chance)
        if frame_type == FrameType.DATA:
            if state.takes is Take.ERROR:
                return
        elif frame_type in VISIT_FRAMES:
            before = state.number
            try:
                event = state.receive(frame_type, payload)
            except RemoteProtocolError:
                return
            _check_event(state, event, before)
        _check_state(state)


def _command(state: LaneState, chance: Random) -> None:
    """Run one command that the state allows: it must not raise, and must return one whole frame."""
    commands = []
    if state.side is Side.OPENER and state.idle and not state.spent:
        commands.append(lambda: state.open(_OPENING))
    if state.side is Side.ACCEPTOR and state.phase is Phase.OPENING:
        commands += [state.opened, lambda: state.refuse(RefusalReason.OVERLOADED, "later")]
    if state.sends:
        commands.append(state.end)
    if not state.idle and state.sent is not Ending.RESET:
        commands.append(state.reset)
    if commands:
        ((frame_type, payload),), error = read([chance.choice(commands)()])
        assert not error
        assert decode_number(payload) == state.number
        assert frame_type in VISIT_FRAMES
        _check_state(state)


def _check_state(state: LaneState) -> None:
    both_ended = state.sent is not Ending.NONE and state.received is not Ending.NONE
    assert not both_ended or state.idle, f"{state!r} is not idle"
    assert not (state.idle and (state.sends or state.takes is Take.DELIVER)), f"{state!r} moves bytes"
    assert not (state.sent is Ending.RESET and state.takes is Take.DELIVER), f"{state!r} delivers after its RESET"
    assert not (state.received is not Ending.NONE and state.takes is Take.DELIVER), f"{state!r} delivers after the end"


def _check_event(state: LaneState, event: Event | None, before: int) -> None:
    assert state.number == before + isinstance(event, VisitOpening), f"{state!r} was at {before}"
    match event:
        case VisitOpening():
            assert (state.side, state.phase) == (Side.ACCEPTOR, Phase.OPENING)
        case VisitOpened():
            assert (state.side, state.phase) == (Side.OPENER, Phase.RUNNING)
        case VisitRefused():
            assert state.side is Side.OPENER
            assert state.idle
        case VisitEnded():
            assert state.received is Ending.END
        case VisitReset(answer):
            assert state.received is Ending.RESET
            assert state.idle
            assert answer in (b"", encode_number(FrameType.RESET, state.number))


def _payload_seeds() -> tuple[bytes, ...]:
    """Payloads of OPEN and REFUSED from the vectors, and a visitor's address as a dual-stack socket gives it."""
    mapped = encode_open(1, _OPENING)[HEADER_SIZE:-7] + b"\x10" + bytes(10) + b"\xff\xff" + b"\xcb\x00\x71\x09\xc3\x50"
    return (mapped, *(seed[HEADER_SIZE:] for seed in frame_seeds() if seed[:1] in (b"\x02", b"\x04")))


def _check_open(data: bytes) -> None:
    try:
        number, opening = decode_open(data)
    except RemoteProtocolError:
        pass
    else:
        assert opening.label.isascii()
        address = ip_address(opening.visitor_host)
        assert str(address) == opening.visitor_host
        assert address.version == 4 or address.ipv4_mapped is None, "an IPv4 visitor is told as one"
        assert opening.kind in VisitKind
        frame = encode_open(number, opening)
        assert len(frame) <= HEADER_SIZE + MAX_VISIT_FRAME
        assert decode_open(frame[HEADER_SIZE:]) == (number, opening)
    try:
        reason, message = decode_refused(data)
    except RemoteProtocolError:
        pass
    else:
        assert reason in RefusalReason
        message.encode()


FRAMES: Final = Target(
    "frames",
    "Whatever the bytes, and however they are cut, the reader gives the frames that the specification says, or raises "
    "the one RemoteProtocolError that it says.",
    frame_seeds,
    _check_frames,
)
LANE: Final = Target(
    "lane",
    "Whatever frames arrive between whatever is done at an end, that end answers with an event that fits its state or "
    "with RemoteProtocolError, is idle once both directions have ended, and delivers no byte after that.",
    frame_seeds,
    _check_lane,
)
OPEN: Final = Target(
    "open",
    "Whatever the payload, OPEN and REFUSED are read as values that can be sent again unchanged, or raise "
    "RemoteProtocolError.",
    _payload_seeds,
    _check_open,
)
