"""Counting records by their headers."""

import pytest
from portway_carrier.python.transport.tls_records import RecordCounter

BODIES = [b"", b"x", b"\x17\x03\x03\x00\x05", bytes(300), b"\xff" * 16_640, b"", bytes(22)]
STREAM = b"".join(b"\x17\x03\x03" + len(body).to_bytes(2) + body for body in BODIES)
ENOUGH = 1_000


def counted(counter: RecordCounter, piece: bytes) -> int:
    found = counter.count(piece, ENOUGH)
    assert found is not None
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 100, 16_645, len(STREAM)])
def test_pieces_of_any_size_hold_the_same_records(size: int) -> None:
    """A header that is cut anywhere counts once, with the piece that its last byte is in."""
    counter = RecordCounter()
    pieces = [memoryview(STREAM)[at : at + size] for at in range(0, len(STREAM), size)]
    assert sum(counted(counter, bytes(piece)) for piece in pieces) == len(BODIES)


@pytest.mark.parametrize("cut", range(25))
def test_a_header_in_two_pieces_is_one_record(cut: int) -> None:
    """Wherever the first piece ends."""
    stream = STREAM + STREAM
    counter = RecordCounter()
    assert counted(counter, stream[:cut]) + counted(counter, stream[cut:]) == 2 * len(BODIES)


def test_more_than_asked_for_changes_nothing() -> None:
    """The same bytes can be counted again, in smaller pieces."""
    counter = RecordCounter()
    assert counter.count(STREAM, len(BODIES) - 1) is None
    assert counter.count(STREAM, len(BODIES)) == len(BODIES)
    assert counted(counter, b"") == 0
    assert counted(counter, STREAM) == len(BODIES)
