"""Framing a stream: from then on its connection is a lane."""

from portway_proto.wire.lane import Side

from portway_carrier.contract import LaneEvents
from portway_carrier.errors import ConnectionLost
from portway_carrier.python.lanes.lane import PyLane
from portway_carrier.python.transport.stream import PyStream


def frame_stream(stream: PyStream, side: Side, events: LaneEvents, *, greeted: bool = True) -> PyLane:
    """A lane on the stream's connection, which leaves the stream. Raises CarrierError, having closed the stream, when
    the connection was lost."""
    transport = stream.transport
    if stream.lost is not None or transport is None or transport.is_closing():
        stream.abort()
        raise stream.lost or ConnectionLost("the connection was lost before it was framed")
    lane = PyLane(stream.core, transport, stream.peer, side, events, tls=stream.tls, greeted=greeted)
    transport.set_protocol(lane)
    for data in stream.give_to(lane):
        lane.data_received(memoryview(data))
    if stream.ended:  # half a lane is none
        lane.shut()
    return lane
