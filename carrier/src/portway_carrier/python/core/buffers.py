"""The buffers that every connection of a carrier reads into.

asyncio's default, a new bytes object of up to 256 KiB for each read, cost a plain socket's reader half of its time.
The contents are valid until the next read of any connection: code that keeps bytes copies them. TLS transports need
no copy, because they encrypt within write().
"""

import struct
from typing import Final

from portway_proto.wire.frames import FrameType
from portway_proto.wire.limits import HEADER_SIZE

# A frame filled by one read is as long as sixteen full TLS records.
_SIZE: Final = 256 * 1024
# OpenSSL keeps a buffer as large as the largest write to it for as long as a connection lives.
_CIPHERTEXT_SIZE: Final = 128 * 1024
_put_header = struct.Struct(">I").pack_into
_DATA_HEADER: Final = FrameType.DATA << 24


class ReadBuffer:
    """Where plaintext is read to: `room`. A frame's header fits in front of it."""

    __slots__ = ("_whole", "room")

    def __init__(self) -> None:
        self._whole = memoryview(bytearray(_SIZE))
        self.room = self._whole[HEADER_SIZE:]

    def frame(self, size: int) -> memoryview:
        """The first `size` bytes of the room as a DATA frame, without moving them."""
        _put_header(self._whole, 0, _DATA_HEADER | size)
        return self._whole[: HEADER_SIZE + size]


def ciphertext_buffer() -> memoryview:
    """Where TLS records are read to, before they are decrypted."""
    return memoryview(bytearray(_CIPHERTEXT_SIZE))
