"""A connection that carries frames: the path of a visit's bytes, both ways, by plain calls.

Outgoing bytes are framed where they were read. Incoming DATA goes to `sink`, which is the stream's write. Every other
frame, and DATA without a sink, goes to the subclass (lane.py).
"""

import asyncio
from collections.abc import Callable
from typing import Final

from portway_proto.wire.errors import RemoteProtocolError
from portway_proto.wire.frames import Bytes, FrameReader, FrameType, data_header
from portway_proto.wire.limits import HEADER_SIZE
from portway_runtime.endpoints import Endpoint

from portway_carrier.errors import ConnectionLost
from portway_carrier.python.core.core import Core
from portway_carrier.python.transport.connection import Connection

_DATA: Final = int(FrameType.DATA)
# Up to this size, copying the bytes behind their header is cheaper than a TLS record for the header alone.
_JOINED_WRITE: Final = 64 * 1024
# So many bytes of one read outside visits are not charged: a part of a header, a frame of a visit that is over.
_IGNORED: Final = 64


class FramedConnection(Connection):
    """Frames on a transport that is established."""

    __slots__ = (
        "_gathered",
        "_reader",
        "closed",
        "control_frames",
        "deferred",
        "received_bytes",
        "sent_bytes",
        "silent_since",
        "sink",
        "unanswered_pings",
    )

    def __init__(self, core: Core, transport: asyncio.Transport, peer: Endpoint, *, tls: bool) -> None:
        super().__init__(core, peer, tls=tls)
        self.sink: Callable[[Bytes], None] | None = None
        self.sent_bytes = 0  # DATA of the current visit, or of the last one
        self.received_bytes = 0
        self.silent_since = core.loop.time()  # the last bytes received, or the last sweep during a visit
        self.unanswered_pings = 0
        self.closed = False  # its end was reported; the transport may still be closing
        self.deferred = b""  # a frame that leaves with the next write
        self._gathered: list[bytes] = []  # frames that leave in one write, in the next turn of the loop at the latest
        self.control_frames = 0  # received outside visits, and not passed to `control_received` yet
        self._reader = FrameReader()
        self.attach(transport)

    # Out.

    def carry_read(self, size: int) -> None:
        """Send the first `size` bytes of the read buffer as DATA."""
        self.sent_bytes += size
        frame: Bytes = self.core.read_buffer.frame(size)
        self.write(self._with_deferred(frame) if self.deferred else frame)

    def carry(self, data: Bytes) -> None:
        """Send `data` as DATA."""
        size = len(data)
        self.sent_bytes += size
        if size <= _JOINED_WRITE or not self.tls:
            self.write_frames(b"".join((data_header(size), data)))
        else:
            self.write_frames(data_header(size))
            self.write_frames(data)

    def gather(self, frame: bytes) -> None:
        """Send a frame outside visits together with others: a client's BINDs are many, and so are their answers."""
        if not self._gathered:
            self.core.loop.call_soon(self.send_gathered)
        self._gathered.append(frame)

    def send_gathered(self) -> None:
        """Send what was gathered now."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            self.write_frames(b"".join(gathered))

    def write_frames(self, raw: Bytes) -> None:
        """Write encoded frames, unless it is closed; behind those that were gathered."""
        if self._gathered:
            self.send_gathered()
        if not self.closed:
            self.write(self._with_deferred(raw) if self.deferred else raw)

    def send_deferred(self, frame: bytes) -> None:
        """Send the deferred `frame` now, unless it has left already."""
        if frame and frame is self.deferred:
            self.write(self._with_deferred(b""))

    def _with_deferred(self, frame: Bytes) -> bytes:
        deferred, self.deferred = self.deferred, b""
        return b"".join((deferred, frame))

    # In.

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self.core.read_buffer.room[:nbytes])

    def data_received(self, data: memoryview) -> None:
        """Take bytes of the wire, which are valid only during the call."""
        sink = self.sink
        if sink is not None and self._reader.whole_data(data):
            self.received_bytes += len(data) - HEADER_SIZE
            sink(data[HEADER_SIZE:])
            return
        self.silent_since, self.unanswered_pings = self.core.loop.time(), 0
        carried = 0
        try:
            for frame_type, payload in self._reader.feed(data):
                if self.closed:
                    return
                if frame_type == _DATA:
                    carried += HEADER_SIZE + len(payload)
                    sink = self.sink
                    if sink is not None:
                        self.received_bytes += len(payload)
                        sink(payload)
                    else:
                        self.data_without_sink(payload)
                elif self.frame_received(frame_type, payload):
                    carried += HEADER_SIZE + len(payload)
            if self.control_frames or len(data) - carried > _IGNORED:
                self.control_received(len(data) - carried)
        except RemoteProtocolError as error:
            self.protocol_violated(error)

    def eof_received(self) -> bool:
        self.linger()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.detach()
        self.ended(ConnectionLost(f"the connection was lost: {error}" if error else "the peer closed it"))

    # What a subclass implements. All but the last two may raise RemoteProtocolError.

    def data_without_sink(self, payload: Bytes) -> None:
        raise NotImplementedError

    def frame_received(self, frame_type: int, payload: Bytes) -> bool:
        """Handle a frame that is not DATA. Whether it belongs to the current visit; others count in
        `control_frames`."""
        raise NotImplementedError

    def control_received(self, size: int) -> None:
        """`control_frames` and `size` bytes, which belong to no visit, were received in one read."""
        raise NotImplementedError

    def protocol_violated(self, error: RemoteProtocolError) -> None:
        raise NotImplementedError

    def ended(self, error: ConnectionLost) -> None:
        raise NotImplementedError
