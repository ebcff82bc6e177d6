"""portway_carrier.python.core.buffers: bytes that were read, as a frame."""

from portway_carrier.python.core.buffers import ReadBuffer
from portway_proto.wire.frames import FrameReader, FrameType
from portway_proto.wire.limits import MAX_DATA


def test_what_was_read_is_framed_in_place() -> None:
    """A DATA frame around the same memory, for any length that a read can have."""
    buffer = ReadBuffer()
    buffer.room[:5] = b"bytes"
    frame = buffer.frame(5)
    assert FrameReader().feed(frame) == [(FrameType.DATA, b"bytes")]
    buffer.room[:1] = b"B"
    assert bytes(frame[-5:]) == b"Bytes"


def test_the_longest_read_fits_one_frame() -> None:
    """A read fills no more than the limit of DATA."""
    buffer = ReadBuffer()
    assert len(buffer.room) <= MAX_DATA
    ((frame_type, payload),) = FrameReader().feed(buffer.frame(len(buffer.room)))
    assert (frame_type, len(payload)) == (FrameType.DATA, len(buffer.room))
