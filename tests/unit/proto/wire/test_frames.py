"""Frames: every one whole, byte by byte, cut at each place, and with bytes left over."""

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from portway_proto.v1 import lane_pb2
from portway_proto.wire.errors import FrameTooLarge, RemoteProtocolError
from portway_proto.wire.frames import (
    Bytes,
    FrameReader,
    FrameType,
    Opening,
    RefusalReason,
    VisitKind,
    data_header,
    decode_number,
    decode_open,
    decode_refused,
    encode_frame,
    encode_number,
    encode_open,
    encode_refused,
)
from portway_proto.wire.limits import MAX_CONTROL, MAX_DATA, MAX_VISIT_FRAME
from portway_testkit.wire_spec import table, vectors

FRAMES = vectors("frames")["frames"]
NAMES = [frame["name"] for frame in FRAMES]
ERRORS = {"protocol": RemoteProtocolError, "too_large": FrameTooLarge}
UNREADABLE = [case for case in vectors("malformed")["cases"] if case["target"] == "reader"]
OPENING = Opening("k5zq2w7b3xav6mdy", "203.0.113.9", 50000)
TLS_FIELDS = ("tls_version", "server_name", "alpn")
TLS_OPENING = replace(OPENING, tls_version=0x0304, server_name="k5zq2w7b3xav6mdy.fra.example.com", alpn="http/1.1")


def merged(frames: list[tuple[int, Bytes]]) -> list[tuple[int, bytes]]:
    """Frames as values, neighbouring pieces of DATA made one."""
    result: list[tuple[int, bytes]] = []
    for frame_type, payload in frames:
        if frame_type == FrameType.DATA and result and result[-1][0] == FrameType.DATA:
            result[-1] = (frame_type, result[-1][1] + bytes(payload))
        else:
            result.append((frame_type, bytes(payload)))
    return result


def read(*pieces: bytes) -> list[tuple[int, bytes]]:
    reader = FrameReader()
    return merged([frame for piece in pieces for frame in reader.feed(piece)])


def single_bytes(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]


def tls_of(fields: dict[str, Any]) -> dict[str, Any]:
    """What an OPEN's vector says of the visitor's TLS."""
    return {name: fields[name] for name in TLS_FIELDS if name in fields}


def encoded(frame: dict[str, Any]) -> bytes:
    """The bytes of a vector's fields, by the encoders."""
    frame_type, fields = FrameType[frame["type"]], frame["fields"]
    match frame_type:
        case FrameType.DATA:
            data = bytes.fromhex(fields["data"])
            return data_header(len(data)) + data
        case FrameType.OPEN:
            kind = VisitKind[fields["kind"]]
            opening = Opening(fields["label"], fields["visitor_host"], fields["visitor_port"], kind, **tls_of(fields))
            return encode_open(fields["number"], opening)
        case FrameType.REFUSED:
            return encode_refused(fields["number"], RefusalReason[fields["reason"]], fields["message"])
        case FrameType.OPENED | FrameType.END | FrameType.RESET:
            return encode_number(frame_type, fields["number"])
        case FrameType.PING | FrameType.PONG | FrameType.RETIRE:
            return encode_frame(frame_type, bytes.fromhex(fields["payload"]))
    message = ParseDict(fields["json"], getattr(lane_pb2, fields["message"])())
    return encode_frame(frame_type, message.SerializeToString(deterministic=True))


def decoded(frame_type: FrameType, payload: bytes, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a frame's bytes, by the decoders; `fields` only names a message."""
    match frame_type:
        case FrameType.DATA:
            return {"data": payload.hex()}
        case FrameType.OPEN:
            number, opening = decode_open(payload)
            tls = {name: getattr(opening, name) for name in TLS_FIELDS}
            return {
                "number": number,
                "label": opening.label,
                "visitor_host": opening.visitor_host,
                "visitor_port": opening.visitor_port,
                "kind": opening.kind.name,
            } | (tls if any(tls.values()) else {})
        case FrameType.REFUSED:
            reason, message = decode_refused(payload)
            return {"number": decode_number(payload), "reason": reason.name, "message": message}
        case FrameType.OPENED | FrameType.END | FrameType.RESET:
            return {"number": decode_number(payload)}
        case FrameType.PING | FrameType.PONG | FrameType.RETIRE:
            return {"payload": payload.hex()}
    expected = ParseDict(fields["json"], getattr(lane_pb2, fields["message"])())
    assert type(expected).FromString(payload) == expected
    return fields


def test_vectors_hold_every_type() -> None:
    """Each type of frame has a vector, under the code that the specification gives it."""
    assert {(frame["type"], frame["code"]) for frame in FRAMES} == {(kind.name, kind.value) for kind in FrameType}


@pytest.mark.parametrize("frame", FRAMES, ids=NAMES)
def test_fields_encode_to_the_vectors_bytes(frame: dict[str, Any]) -> None:
    """A frame's fields have one encoding, byte for byte."""
    assert encoded(frame).hex() == frame["hex"]


@pytest.mark.parametrize("frame", FRAMES, ids=NAMES)
def test_bytes_decode_to_the_vectors_fields(frame: dict[str, Any]) -> None:
    """A frame's bytes say what its fields say."""
    [(frame_type, payload)] = read(bytes.fromhex(frame["hex"]))
    assert frame_type == FrameType[frame["type"]]
    assert decoded(FrameType(frame_type), payload, frame["fields"]) == frame["fields"]


@pytest.mark.parametrize("frame", FRAMES, ids=NAMES)
def test_a_frame_is_the_same_in_any_two_pieces(frame: dict[str, Any]) -> None:
    """Where the bytes are cut, or whether they come one by one, makes no difference."""
    raw = bytes.fromhex(frame["hex"])
    whole = read(raw)
    assert len(whole) == 1
    for cut in range(len(raw) + 1):
        assert read(raw[:cut], raw[cut:]) == whole
    assert read(*single_bytes(raw)) == whole


@pytest.mark.parametrize("frame", FRAMES, ids=NAMES)
def test_bytes_left_over_begin_the_next_frame(frame: dict[str, Any]) -> None:
    """What follows a frame in the same bytes is kept for the next one."""
    raw, follower = bytes.fromhex(frame["hex"]), encode_frame(FrameType.BIND, b"next")
    for cut in range(len(follower) + 1):
        assert read(raw + follower[:cut], follower[cut:]) == [*read(raw), (FrameType.BIND, b"next")]


def test_all_frames_in_one_stream_come_out_in_order_in_any_piece_size() -> None:
    """A stream of every frame gives the same frames whatever the size of its pieces."""
    stream = b"".join(bytes.fromhex(frame["hex"]) for frame in FRAMES)
    whole = read(stream)
    for size in (1, 2, 3, 4, 5, 7, 64, 1000):
        assert read(*(stream[at : at + size] for at in range(0, len(stream), size))) == whole


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes_is_read(kind: type) -> None:
    """A reader takes what event loops hand out."""
    reader = FrameReader()
    first = reader.feed(kind(bytes.fromhex("0500000400")))
    assert first == []
    assert merged(reader.feed(kind(bytes.fromhex("000001")))) == [(FrameType.END, b"\0\0\0\1")]


def test_data_is_passed_on_without_waiting_and_without_a_copy() -> None:
    """Each piece of DATA comes out at once, as a view of what came in."""
    reader = FrameReader()
    first = data_header(10) + b"abcd"
    [(_, piece)] = reader.feed(first)
    assert isinstance(piece, memoryview)
    assert piece.obj is first
    assert bytes(piece) == b"abcd"
    assert [bytes(piece) for _, piece in reader.feed(b"efg")] == [b"efg"]
    rest = reader.feed(b"hij" + data_header(1) + b"k")
    assert [bytes(piece) for _, piece in rest] == [b"hij", b"k"]


def test_a_data_header_cut_apart_does_not_copy_what_follows() -> None:
    """Only the header's own bytes are gathered."""
    reader = FrameReader()
    assert reader.feed(data_header(5)[:3]) == []
    rest = data_header(5)[3:] + b"hello"
    [(_, piece)] = reader.feed(rest)
    assert isinstance(piece, memoryview)
    assert piece.obj is rest


def test_empty_data_means_nothing() -> None:
    """A DATA frame without bytes is no frame to anybody."""
    assert read(data_header(0) + encode_number(FrameType.END, 1)) == [(FrameType.END, b"\0\0\0\1")]


@pytest.mark.parametrize("code", [0x81, 0xC3, 0xFF])
@pytest.mark.parametrize("size", [0, 1, 5, MAX_CONTROL])
def test_unknown_types_from_0x80_up_are_skipped(code: int, size: int) -> None:
    """A later version's optional frames leave no trace, in whatever pieces they come."""
    unknown = encode_frame(code, bytes([0x01]) * size)
    end = encode_number(FrameType.END, 3)
    for cut in (0, 1, 3, 4, 5, len(unknown) - 1, len(unknown), len(unknown) + 2):
        raw = unknown + end
        assert read(raw[:cut], raw[cut:]) == [(FrameType.END, b"\0\0\0\3")]


@pytest.mark.parametrize("case", UNREADABLE, ids=[case["name"] for case in UNREADABLE])
def test_what_no_reader_takes(case: dict[str, Any]) -> None:
    """Malformed headers are refused, whole or byte by byte, without waiting for the payload."""
    raw = bytes.fromhex(case["hex"])
    for pieces in ([raw], single_bytes(raw)):
        with pytest.raises(RemoteProtocolError) as caught:
            read(*pieces)
        assert type(caught.value) is ERRORS[case["error"]]


def test_largest_frames_pass() -> None:
    """Each type takes exactly what the specification's table says and not a byte more."""
    for row in table("code", "type", "sent by"):
        code, limit = int(row["code"], 16), int(row["largest payload"])
        header = (code << 24 | limit).to_bytes(4)
        expected = [(code, bytes(limit))] if limit or code != FrameType.DATA else []
        assert read(header + bytes(limit)) == expected
        with pytest.raises(FrameTooLarge) as caught:
            read((code << 24 | limit + 1).to_bytes(4))
        assert (caught.value.frame_type, caught.value.length, caught.value.limit) == (code, limit + 1, limit)


def test_the_specification_names_every_type() -> None:
    """WIRE.md's table of frames and the code have the same types."""
    documented = {(row["type"], int(row["code"], 16)) for row in table("code", "type", "sent by")}
    assert documented == {(kind.name, kind.value) for kind in FrameType}


def test_a_large_frame_byte_by_byte_is_gathered_in_linear_work() -> None:
    """The reader never copies what it has gathered before a frame's end."""
    reader = FrameReader()
    raw = encode_frame(FrameType.BIND, bytes(range(256)) * 64)
    body = reader._body
    for piece in single_bytes(raw)[:-1]:
        assert reader.feed(piece) == []
        assert reader._body is body
    assert reader.feed(raw[-1:]) == [(FrameType.BIND, raw[4:])]
    assert len(body) == 0


def test_an_encoder_refuses_what_a_reader_would() -> None:
    """Nobody sends a frame that is over its type's limit."""
    assert len(encode_frame(FrameType.BIND, bytes(MAX_CONTROL))) == MAX_CONTROL + 4
    for frame_type, limit in ((FrameType.BIND, MAX_CONTROL), (FrameType.DATA, MAX_DATA), (FrameType.RETIRE, 0)):
        with pytest.raises(ValueError, match="over the limit"):
            encode_frame(frame_type, bytes(limit + 1))


@pytest.mark.parametrize(
    "opening",
    [
        Opening("a" * 256, "192.0.2.1", 1),
        Opening("naïve", "192.0.2.1", 1),
        Opening("a", "example.com", 1),
        Opening("a", "", 1),
        Opening("a", "192.0.2.1", 65536),
        Opening("a", "192.0.2.1", -1),
        replace(OPENING, tls_version=0x10000),
        replace(OPENING, server_name="a" * 256),
        replace(OPENING, server_name="naïve.example.com"),
        replace(OPENING, alpn="a" * 256),
    ],
)
def test_an_opening_that_does_not_fit_is_refused(opening: Opening) -> None:
    """Names that are too long or not ASCII, a host that is no address, a port or a version that is none."""
    with pytest.raises(ValueError):
        encode_open(1, opening)


def test_the_longest_open_fits_its_frame() -> None:
    """Whatever can be said of a visitor fits in an OPEN."""
    frame = encode_open(1, Opening("a" * 255, "2001:db8::1", 65535))
    assert len(frame) - 4 == 280 <= MAX_VISIT_FRAME
    named = replace(TLS_OPENING, visitor_host="2001:db8::1", server_name="a" * 253)
    assert decode_open(encode_open(1, named)[4:])[1] == named


def test_what_has_no_room_is_not_said_of_tls() -> None:
    """No label of a tunnel is long enough for that, and the visit is worth more."""
    long = replace(TLS_OPENING, label="a" * 255, server_name="a" * 253)
    assert decode_open(encode_open(1, long)[4:])[1] == Opening(long.label, long.visitor_host, long.visitor_port)


def test_an_earlier_release_reads_an_open_that_tells_of_tls() -> None:
    """What it knows has kept its place, and what it does not know follows."""
    assert encode_open(9, TLS_OPENING)[4:].startswith(encode_open(9, OPENING)[4:])


@pytest.mark.parametrize(
    ("host", "expected"),
    [("::ffff:203.0.113.9", "203.0.113.9"), ("fe80::1%eth0", "fe80::1"), ("2001:DB8:0::1", "2001:db8::1")],
)
def test_addresses_travel_in_their_plain_form(host: str, expected: str) -> None:
    """IPv4 visitors of a dual-stack socket are IPv4, and a zone stays on its machine."""
    frame = encode_open(1, Opening("a", host, 1))
    assert decode_open(frame[4:])[1].visitor_host == expected


def test_a_mapped_address_from_a_careless_peer_is_read_as_ipv4() -> None:
    """What the encoder would not send is still read in its plain form."""
    mapped = bytes(10) + b"\xff\xff" + bytes([203, 0, 113, 9])
    payload = encode_open(1, Opening("a", "::1", 7))[4:].replace(bytes(15) + b"\1", mapped)
    assert decode_open(payload)[1] == Opening("a", "203.0.113.9", 7)


def test_fields_of_a_later_version_are_ignored() -> None:
    """Bytes after the last known field of OPEN and of the frames with a number are nobody's business."""
    assert decode_open(encode_open(9, TLS_OPENING)[4:] + b"later") == (9, TLS_OPENING)
    assert decode_open(encode_open(9, OPENING)[4:] + bytes(4) + b"later") == (9, OPENING)
    assert decode_number(b"\0\0\0\7later") == 7


def test_unknown_reasons_are_other() -> None:
    """A reason of a later version still refuses."""
    assert decode_refused(b"\0\0\0\1\xc8why") == (RefusalReason.OTHER, "why")
    reasons = {(int(row["reason"]), row["name"]) for row in table("reason", "name")}
    assert reasons == {(reason.value, reason.name) for reason in RefusalReason}


def test_a_long_message_is_cut_between_characters() -> None:
    """A refusal always fits its frame and stays text."""
    frame = encode_refused(1, RefusalReason.OTHER, "–" * 400)
    assert len(frame) <= 4 + MAX_VISIT_FRAME
    assert decode_refused(frame[4:])[1] == "–" * 169


def test_a_message_that_is_not_text_is_shown_as_far_as_it_is() -> None:
    """Neither a lone surrogate going out nor broken UTF-8 coming in is an error."""
    assert decode_refused(encode_refused(1, RefusalReason.OTHER, "a\udc80b")[4:])[1] == "a?b"
    assert decode_refused(b"\0\0\0\1\0a\xffb")[1] == "a\N{REPLACEMENT CHARACTER}b"
