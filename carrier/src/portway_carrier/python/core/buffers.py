"""The one buffer that all connections of a carrier read into.

asyncio's own way, a new bytes object of 256 KiB for each read, cost the side that reads a plain socket half of its
time. What is read here is valid until the next read of any connection: whoever keeps bytes copies them. TLS transports
need no copy, they encrypt within write().
"""

import struct
from typing import Final

from portway_proto.wire.frames import FrameType
from portway_proto.wire.limits import HEADER_SIZE

# A frame that is filled by one read is as long as sixteen whole TLS records.
_SIZE: Final = 256 * 1024
_put_header = struct.Struct(">I").pack_into
_DATA_HEADER: Final = FrameType.DATA << 24


class ReadBuffer:
    """`room` is where sockets are read to. There is space for a frame's header in front of it."""

    __slots__ = ("_whole", "room")

    def __init__(self) -> None:
        self._whole = memoryview(bytearray(_SIZE))
        self.room = self._whole[HEADER_SIZE:]

    def frame(self, size: int) -> memoryview:
        """The first `size` bytes of the room as a DATA frame, without moving them."""
        _put_header(self._whole, 0, _DATA_HEADER | size)
        return self._whole[: HEADER_SIZE + size]
