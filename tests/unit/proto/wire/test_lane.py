"""The states of a lane's end: every cell of WIRE.md's two tables, the vectors' sequences, and numbers."""

from collections.abc import Callable
from typing import Any

import pytest
from portway_proto.wire.errors import LocalProtocolError, RemoteProtocolError
from portway_proto.wire.frames import (
    Bytes,
    FrameReader,
    FrameType,
    Opening,
    RefusalReason,
    VisitKind,
    data_header,
    encode_number,
    encode_open,
    encode_refused,
)
from portway_proto.wire.lane import (
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
from portway_proto.wire.limits import MAX_NUMBER
from portway_testkit.wire_spec import example_frames, table, vectors

OPENING = Opening("k5zq2w7b3xav6mdy", "203.0.113.9", 50000)
SEQUENCES = vectors("lane_sequences")["sequences"]
FORBIDDEN = [case for case in vectors("malformed")["cases"] if case["target"] == "lane"]


def parsed(raw: bytes) -> tuple[int, Bytes]:
    [frame] = FrameReader().feed(raw)
    return frame


def opened(number: int = 1) -> bytes:
    return encode_number(FrameType.OPENED, number)


def end(number: int = 1) -> bytes:
    return encode_number(FrameType.END, number)


def reset(number: int = 1) -> bytes:
    return encode_number(FrameType.RESET, number)


def refused(number: int = 1) -> bytes:
    return encode_refused(number, RefusalReason.NOT_HERE, "gone")


COMMANDS: dict[str, Callable[[LaneState], bytes]] = {
    "open": lambda lane: lane.open(OPENING),
    "opened": LaneState.opened,
    "refuse": lambda lane: lane.refuse(RefusalReason.NOT_HERE, "gone"),
    "end": LaneState.end,
    "reset": LaneState.reset,
}
RECEIVED: dict[str, Callable[[int], bytes]] = {
    "OPEN": lambda number: encode_open(number + 1, OPENING),
    "OPENED": opened,
    "REFUSED": refused,
    "END": end,
    "RESET": reset,
}
# How to get a fresh end into each state: commands, and frames of visit 1.
WAYS: dict[str, dict[str, list[str]]] = {
    "opener": {
        "IDLE": ["open", "gets OPENED", "end", "gets END"],
        "OPENING": ["open"],
        "OPENING-ENDED": ["open", "end"],
        "OPENING-RESET": ["open", "reset"],
        "RUNNING": ["open", "gets OPENED"],
        "ENDED": ["open", "gets OPENED", "end"],
        "PEER-ENDED": ["open", "gets OPENED", "gets END"],
        "RESETTING": ["open", "gets OPENED", "reset"],
    },
    "acceptor": {
        "IDLE": ["gets OPEN", "opened", "end", "gets END"],
        "REFUSED": ["gets OPEN", "refuse"],
        "OPENING": ["gets OPEN"],
        "OPENING-ENDED": ["gets OPEN", "gets END"],
        "RUNNING": ["gets OPEN", "opened"],
        "ENDED": ["gets OPEN", "opened", "end"],
        "PEER-ENDED": ["gets OPEN", "opened", "gets END"],
        "RESETTING": ["gets OPEN", "opened", "reset"],
    },
}
TAKES = {"deliver": Take.DELIVER, "discard": Take.DISCARD, "error": Take.ERROR}
EVENTS: dict[str, Event] = {
    "OPEN": VisitOpening(OPENING),
    "OPENED": VisitOpened(),
    "REFUSED": VisitRefused(RefusalReason.NOT_HERE, "gone"),
    "END": VisitEnded(),
}


def step(lane: LaneState, word: str) -> object:
    """One command, or one frame of the visit in progress; what came of it."""
    if word.startswith("gets "):
        return lane.receive(*parsed(RECEIVED[word.removeprefix("gets ")](lane.number)))
    return COMMANDS[word](lane)


def lane_in(side: str, state: str) -> LaneState:
    lane = LaneState(Side(side))
    for word in WAYS[side][state]:
        step(lane, word)
    return lane


def seen(lane: LaneState) -> tuple[object, ...]:
    """All that can be observed of an end and matters for what it does next."""
    endings = () if lane.idle else (lane.sent, lane.received)
    return (lane.phase, lane.number, lane.sends, lane.takes, lane.awaits_answer, *endings)


def cells() -> list[Any]:
    return [
        pytest.param(side, row[side], word, cell, id=f"{side} {row[side]}: {word}")
        for side in ("opener", "acceptor")
        for row in table(side)
        for word, cell in row.items()
        if word not in (side, "send DATA", "gets DATA")
    ]


@pytest.mark.parametrize(("side", "state", "word", "cell"), cells())
def test_transition(side: str, state: str, word: str, cell: str) -> None:
    """Each command and each frame in each state does what WIRE.md's table says."""
    lane = lane_in(side, state)
    before = seen(lane)
    if cell == "no":
        with pytest.raises(LocalProtocolError):
            step(lane, word)
        assert seen(lane) == before
        return
    if cell == "error":
        with pytest.raises(RemoteProtocolError):
            step(lane, word)
        return
    if cell == "drop":
        assert step(lane, word) is None
        assert seen(lane) == before
        return
    answer, _, next_state = cell.rpartition(", ")
    came = step(lane, word)
    expected = lane_in(side, next_state)
    expected.number = lane.number
    assert seen(lane) == seen(expected)
    if not word.startswith("gets "):
        kind = {"open": "OPEN", "opened": "OPENED", "refuse": "REFUSED", "end": "END", "reset": "RESET"}[word]
        assert came == RECEIVED[kind](lane.number - (kind == "OPEN"))
        return
    frame = word.removeprefix("gets ")
    if state in ("OPENING-RESET", "RESETTING"):
        assert came is None
    elif frame == "RESET":
        assert came == VisitReset(reset(lane.number) if answer == "answer RESET" else b"")
    else:
        assert came == EVENTS[frame]
        assert answer == ""


@pytest.mark.parametrize(
    ("side", "row"),
    [(side, row) for side in ("opener", "acceptor") for row in table(side)],
    ids=lambda value: str(value)[:40],
)
def test_data(side: str, row: dict[str, str]) -> None:
    """Each state sends and takes DATA as WIRE.md's table says."""
    lane = lane_in(side, row[side])
    assert lane.sends is (row["send DATA"] == "yes")
    assert lane.takes is TAKES[row["gets DATA"]]


@pytest.mark.parametrize("side", ["opener", "acceptor"])
def test_the_tables_have_every_state(side: str) -> None:
    """The tables' states are all that can be reached, each told apart from the others by what it does."""
    rows = {row[side] for row in table(side)}
    assert rows == set(WAYS[side])
    words = [word for word in table(side)[0] if word not in (side, "send DATA", "gets DATA")]
    known = {seen(lane_in(side, state))[0:1] + seen(lane_in(side, state))[2:] for state in rows}
    assert len(known) == len(rows)
    for state in rows:
        for word in words:
            lane = lane_in(side, state)
            try:
                step(lane, word)
            except (LocalProtocolError, RemoteProtocolError):
                continue
            assert seen(lane)[0:1] + seen(lane)[2:] in known


@pytest.mark.parametrize("side", ["opener", "acceptor"])
def test_frames_of_earlier_visits_are_dropped_in_every_state(side: str) -> None:
    """An old number changes nothing and is told to nobody, whatever the state."""
    for state in WAYS[side]:
        lane = lane_in(side, state)
        lane.number += 2
        before = seen(lane)
        for frame in (opened(2), refused(2), end(2), reset(2), reset(0)):
            assert lane.receive(*parsed(frame)) is None
            assert seen(lane) == before


@pytest.mark.parametrize("side", ["opener", "acceptor"])
def test_numbers_ahead_are_errors_in_every_state(side: str) -> None:
    """A frame of a visit that was not opened is an error, whatever the state."""
    for state in WAYS[side]:
        for frame in (opened(2), refused(2), end(2), reset(2)):
            with pytest.raises(RemoteProtocolError, match="ahead"):
                lane_in(side, state).receive(*parsed(frame))


@pytest.mark.parametrize("number", [0, 1, 3])
def test_an_open_counts_up_by_one(number: int) -> None:
    """OPEN with a number that was used, or that leaves one out, is an error."""
    with pytest.raises(RemoteProtocolError, match="after 1"):
        lane_in("acceptor", "IDLE").receive(*parsed(encode_open(number, OPENING)))


def test_the_last_number_is_used_and_none_after_it() -> None:
    """A lane whose numbers are used up says so and opens no more visits."""
    opener, acceptor = lane_in("opener", "IDLE"), lane_in("acceptor", "IDLE")
    opener.number = acceptor.number = MAX_NUMBER - 1
    assert not opener.spent
    acceptor.receive(*parsed(opener.open(OPENING)))
    opener.receive(*parsed(acceptor.refuse(RefusalReason.OVERLOADED)))
    assert opener.spent
    assert opener.idle
    assert acceptor.idle
    with pytest.raises(LocalProtocolError, match="used up"):
        opener.open(OPENING)


def test_an_opening_that_cannot_be_encoded_uses_up_no_number() -> None:
    """After an opening that does not fit, the lane is idle and the next visit has the next number."""
    lane = LaneState(Side.OPENER)
    with pytest.raises(ValueError):
        lane.open(Opening("a" * 256, "203.0.113.9", 1))
    assert lane.idle
    assert lane.open(OPENING) == encode_open(1, OPENING)


@pytest.mark.parametrize("frame_type", [FrameType.DATA, FrameType.PING, FrameType.BIND, 0x99])
def test_only_a_visits_frames_are_its_business(frame_type: int) -> None:
    """Frames that are no visit's are errors here, in every state: the caller keeps them away."""
    for side, states in WAYS.items():
        for state in states:
            with pytest.raises(RemoteProtocolError, match="does not belong"):
                lane_in(side, state).receive(frame_type, b"\0\0\0\1")


def test_a_state_is_readable() -> None:
    """A lane's text tells side, phase, number and endings: it is what logs show."""
    assert repr(lane_in("opener", "ENDED")) == "<opener RUNNING visit 1 sent END received NONE>"


@pytest.mark.parametrize("case", FORBIDDEN, ids=[case["name"] for case in FORBIDDEN])
def test_what_no_end_takes(case: dict[str, Any]) -> None:
    """Malformed and misplaced frames of a visit are errors of the peer's."""
    lane = LaneState(Side(case["side"]))
    for word in case["before"]:
        if "command" in word:
            COMMANDS[word["command"]](lane)
        else:
            lane.receive(*parsed(bytes.fromhex(word["receives"])))
    frame_type, payload = parsed(bytes.fromhex(case["hex"]))
    if frame_type == FrameType.DATA:
        assert lane.takes is Take.ERROR
        return
    with pytest.raises(RemoteProtocolError):
        lane.receive(frame_type, payload)


def described(lane: LaneState) -> dict[str, object]:
    """A state as vectors write it."""
    if lane.idle:
        return {"phase": "IDLE", "number": lane.number, "takes": lane.takes.name}
    return {
        "phase": lane.phase.name,
        "number": lane.number,
        "sent": lane.sent.name,
        "received": lane.received.name,
        "sends": lane.sends,
        "takes": lane.takes.name,
    }


def told(event: Event | None) -> dict[str, object] | None:
    """An event as vectors write it."""
    match event:
        case VisitOpening(opening):
            return {"kind": "opening", "label": opening.label}
        case VisitOpened():
            return {"kind": "opened"}
        case VisitRefused(reason, message):
            return {"kind": "refused", "reason": reason.name, "message": message}
        case VisitEnded():
            return {"kind": "ended"}
        case VisitReset():
            return {"kind": "reset"}
    return None


def command(lane: LaneState, name: str, arguments: dict[str, Any]) -> bytes:
    match name:
        case "open":
            return lane.open(Opening(**arguments | {"kind": VisitKind[arguments["kind"]]}))
        case "refuse":
            return lane.refuse(RefusalReason[arguments["reason"]], arguments["message"])
        case "data":
            assert lane.sends
            data = bytes.fromhex(arguments["data"])
            return data_header(len(data)) + data
    return COMMANDS[name](lane)


@pytest.mark.parametrize("sequence", SEQUENCES, ids=[sequence["name"] for sequence in SEQUENCES])
def test_sequence(sequence: dict[str, Any]) -> None:
    """Both ends follow the vectors' sequence byte for byte and state for state, and end idle, nothing on its way."""
    lanes = {side.value: LaneState(side) for side in Side}
    on_the_way: dict[str, list[str]] = {"opener": [], "acceptor": []}
    for number, item in enumerate(sequence["steps"]):
        at = item["at"]
        lane = lanes[at]
        if "command" in item:
            sent = command(lane, item["command"], item.get("arguments", {}))
        else:
            assert on_the_way[at].pop(0) == item["receives"], f"step {number}: frames arrive in order"
            frame_type, payload = parsed(bytes.fromhex(item["receives"]))
            sent = b""
            if frame_type == FrameType.DATA:
                assert item["event"] == {"kind": "data", "take": lane.takes.name}, f"step {number}"
            else:
                event = lane.receive(frame_type, payload)
                assert told(event) == item["event"], f"step {number}"
                sent = event.answer if isinstance(event, VisitReset) else b""
        assert sent.hex() == item["sends"], f"step {number}"
        if sent:
            on_the_way["acceptor" if at == "opener" else "opener"].append(sent.hex())
        assert {name: described(end) for name, end in lanes.items()} == {name: item[name] for name in lanes}, (
            f"step {number}"
        )
    assert on_the_way == {"opener": [], "acceptor": []}
    assert all(lane.idle for lane in lanes.values())


def test_the_worked_example_is_what_the_code_sends() -> None:
    """WIRE.md's example, byte for byte: a visit, and one that is refused."""
    opener, acceptor = LaneState(Side.OPENER), LaneState(Side.ACCEPTOR)
    sent: list[tuple[str, bytes]] = []

    def from_opener(raw: bytes) -> None:
        sent.append(("O>A", raw))
        frame_type, payload = parsed(raw)
        if frame_type == FrameType.DATA:
            assert acceptor.takes is not Take.ERROR
        else:
            acceptor.receive(frame_type, payload)

    def from_acceptor(raw: bytes) -> None:
        sent.append(("A>O", raw))
        frame_type, payload = parsed(raw)
        if frame_type != FrameType.DATA:
            opener.receive(frame_type, payload)

    from_opener(opener.open(OPENING))
    from_opener(data_header(4) + b"ping")
    from_opener(opener.end())
    from_acceptor(acceptor.opened())
    from_acceptor(data_header(4) + b"pong")
    from_acceptor(acceptor.end())
    assert (opener.phase, acceptor.phase) == (Phase.IDLE, Phase.IDLE)
    from_opener(opener.open(Opening(OPENING.label, OPENING.visitor_host, OPENING.visitor_port + 1)))
    from_opener(data_header(4) + b"ping")
    from_acceptor(acceptor.refuse(RefusalReason.UNREACHABLE))
    assert (opener.phase, acceptor.phase) == (Phase.IDLE, Phase.IDLE)
    assert opener.sent is Ending.NONE
    assert sent == example_frames()
