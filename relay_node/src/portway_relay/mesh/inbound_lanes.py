"""Lanes that other nodes dialled: visits that they forward, and what they tell and ask.

Here: who a lane is of and what its frames mean. Not here: visits themselves (tunnels/visits.py), what is believed
(routes.py). One hop, never a loop: an opening is served from this node's own tunnels or refused.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from google.protobuf.message import DecodeError
from portway_carrier.contract import Carrier, Lane, Stream
from portway_carrier.errors import CarrierError
from portway_carrier.values import ServerTls
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_PROTOCOL,
    FAILURE_CODE_VERSION,
    Answer,
    Ask,
    Failure,
    Peer,
    Routes,
    RoutesHeard,
)
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.frames import FrameType, Opening
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import PROTOCOL_VERSION
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.identities import NodeIdentity, read_identity_der
from portway_runtime.tasks import Tasks

from portway_relay.net.half_open import HalfOpenConnections

logger = logging.getLogger(__name__)

# A handshake that has not ended for so long has lost a packet at the least, and makes room when others come.
PATIENCE: Final = 2.0
# What a node's own pool dials at the most (SpareSizes.lanes), and what is left over of the pool before it.
_LANES_A_NODE: Final = 8192
_MOST_RAW: Final = 65_535
# Of a node that stops: a few round trips for other nodes to close the lanes that they opened.
_LEFT_WITHIN: Final = 1.0


class MeshEvents(Protocol):
    """Who is told what other nodes want."""

    def visit_arrived(self, node: str, lane: Lane, opening: Opening) -> None:
        """A visitor of one of this node's tunnels, perhaps. Join or refuse it."""
        ...

    def refusal(self, identity: NodeIdentity) -> str:
        """Why lanes with this certificate are not taken; empty when they are."""
        ...

    def is_known(self, node: str) -> bool:
        """Whether a registry has told of this node."""
        ...

    def routes_received(self, node: str, routes: Routes) -> None: ...

    def raw_tunnels_listed(self, node: str, raw_labels: set[str]) -> None:
        """Of raw tunnels the node holds these and no other."""
        ...

    def control_lane_up(self, node: str) -> None:
        """Its control lane is up."""
        ...

    def control_lane_lost(self, node: str) -> None:
        """Its control lane is down."""
        ...

    def held_tunnel(self, label: str) -> TunnelInfo | None:
        """A tunnel of this node's own."""
        ...

    def closed_epoch(self, label: str) -> int:
        """With which epoch it was last a tunnel that its client has closed; 0 when that is not so."""
        ...


class InboundLanes:
    """The lanes of other nodes."""

    def __init__(
        self,
        carrier: Carrier,
        mesh_tls: Callable[[], ServerTls],
        events: MeshEvents,
        *,
        most: int,
        most_of_one: int,
        time_limit: float,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`most` handshakes may be in progress, `most_of_one` of one address: until then it may be anybody. The first
        frame has `time_limit` seconds after that."""
        self._carrier = carrier
        self._mesh_tls = mesh_tls
        self._events = events
        self._handshaking = HalfOpenConnections[Stream](
            most, most_of_one, lambda stream: stream.abort(), clock, patience=PATIENCE
        )
        self.rejected = 0
        self._time_limit = time_limit
        self._tasks = Tasks("mesh arrivals", on_failure)
        self._lanes: set[_PeerLane] = set()
        self._of_node: Counter[str] = Counter()
        self._control: dict[str, _PeerLane] = {}
        self.leaving = False
        self._lane_gone = asyncio.Event()
        self.waiting: set[_PeerLane] = set()

    def __len__(self) -> int:
        """Lanes that other nodes hold."""
        return len(self._lanes)

    @property
    def handshakes(self) -> int:
        """TLS handshakes in progress."""
        return len(self._handshaking)

    @property
    def evicted(self) -> int:
        """Handshakes that stood still, and made room for others."""
        return self._handshaking.evicted

    def accept(self, sock: socket.socket, peer: Endpoint) -> None:
        """A node's connection. Owns the socket. Raises TlsSettingsError."""
        stream = self._carrier.accept(sock, self._mesh_tls())
        if not self._handshaking.add(stream, peer.host):
            self.rejected += 1
            stream.abort()
            return
        self._tasks.spawn(self._shake_hands(stream), name="handshake")

    async def close(self) -> None:
        """Let the others leave first, for a moment: only who opens visits knows that none is on its way.

        An OPEN that comes meanwhile is refused, and so tried elsewhere; cut off with its lane, its visitor would be
        lost.
        """
        self.leaving = True
        for lane in self._lanes:
            lane.retire()
        try:
            async with asyncio.timeout(_LEFT_WITHIN):
                await self._tasks.over()
                while any(not lane.control for lane in self._lanes):
                    self._lane_gone.clear()
                    await self._lane_gone.wait()
        except TimeoutError:
            logger.debug("lanes are cut that their openers did not close", extra={"lanes": len(self._lanes)})
        await self._tasks.close()
        for lane in list(self._lanes):
            lane.close()

    async def _shake_hands(self, stream: Stream) -> None:
        try:
            try:
                handshake = await stream.ready()
            finally:
                self._handshaking.discard(stream)
            certified = read_identity_der(handshake.peer_certificate)
            why = "its certificate is no node's" if certified is None else self._events.refusal(certified)
            if certified is None or why:
                stream.abort()
                logger.warning("a mesh lane is refused: %s", why, extra={"peer": stream.peer.host})
                return
            node = certified.node
            if self._of_node[node] >= _LANES_A_NODE:
                stream.abort()
                logger.warning("a node has as many lanes as it may have", extra={"node": node})
                return
            lane = _PeerLane(self, self._events, certified)
            lane.lane = self._carrier.lane(stream, Side.ACCEPTOR, lane)
        except CarrierError as error:
            logger.debug("a mesh lane did not come to be: %s", error)
        except BaseException:
            stream.abort()
            raise
        else:
            self._of_node[node] += 1
            self._lanes.add(lane)
            self.waiting.add(lane)
            lane.timer = asyncio.get_running_loop().call_later(self._time_limit, lane.close)

    def drop_refused(self) -> None:
        """Close the lanes of nodes that were removed, or replaced, since."""
        for lane in [lane for lane in self._lanes if self._events.refusal(lane.certified)]:
            lane.close()

    def is_control(self, lane: "_PeerLane") -> None:
        """The node's newest control lane is the one that counts."""
        before = self._control.get(lane.node)
        self._control[lane.node] = lane
        if before is not None:
            before.close()
        self._events.control_lane_up(lane.node)

    def gone(self, lane: "_PeerLane") -> None:
        if self._control.get(lane.node) is lane:
            del self._control[lane.node]
            self._events.control_lane_lost(lane.node)
        if lane in self._lanes:
            self._lanes.discard(lane)
            self._of_node[lane.node] -= 1
            if not self._of_node[lane.node]:
                del self._of_node[lane.node]
        self.waiting.discard(lane)
        self._lane_gone.set()


class _PeerLane:
    """The LaneEvents of one lane: PEER first; then visits, or the frames of a control lane."""

    def __init__(self, arrivals: InboundLanes, events: MeshEvents, certified: NodeIdentity) -> None:
        self.lane: Lane | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._arrivals = arrivals
        self._events = events
        self.certified = certified
        self.node = certified.node
        self._hello: Peer | None = None
        self._leaves = False
        self._raw_labels: set[str] | None = set()  # until the node has told all

    @property
    def control(self) -> bool:
        """Whether it carries no visits."""
        return self._hello is not None and self._hello.control

    def retire(self) -> None:
        """Ask who opened it to close it."""
        if self.lane is not None and self._hello is not None and not self.control:
            self.lane.send(FrameType.RETIRE)

    def close(self) -> None:
        if self.lane is not None:
            self.lane.abort()

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        if self._leaves:
            return
        try:
            self._frame(lane, frame_type, payload)
        except (DecodeError, ValueError) as error:
            logger.warning("a node broke the protocol", extra={"node": self.node, "reason": str(error)})
            lane.fail(Failure(code=FAILURE_CODE_PROTOCOL, message=str(error)).SerializeToString())

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        if self._hello is None or self.control:
            lane.abort()
        else:
            self._events.visit_arrived(self.node, lane, opening)

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self._arrivals.gone(self)

    def _frame(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        if self._hello is None and frame_type == FrameType.PEER:
            self._greeted(lane, Peer.FromString(payload))
        elif self.control and frame_type == FrameType.ROUTES:
            self._told(lane, Routes.FromString(payload))
        elif self.control and frame_type == FrameType.ASK:
            ask = Ask.FromString(payload)
            answer = Answer(
                request=ask.request,
                tunnel=self._events.held_tunnel(ask.label),
                closed_epoch=self._events.closed_epoch(ask.label),
            )
            lane.send(FrameType.ANSWER, answer.SerializeToString())
        else:
            raise ValueError(f"frame 0x{frame_type:02x} is not a node's to send here")

    def _greeted(self, lane: Lane, hello: Peer) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self._arrivals.waiting.discard(self)
        if hello.version != PROTOCOL_VERSION:
            message = f"this node speaks version {PROTOCOL_VERSION} of the lane protocol, not {hello.version}"
            lane.fail(Failure(code=FAILURE_CODE_VERSION, message=message).SerializeToString())
            return
        if hello.control and not self._events.is_known(self.node):
            # What it told now would not be believed; it comes again, and a registry tells of it meanwhile.
            self._leaves = True
            lane.close()
            return
        self._hello = hello
        if hello.control:
            self._arrivals.is_control(self)
        elif self._arrivals.leaving:
            self.retire()

    def _told(self, lane: Lane, routes: Routes) -> None:
        self._events.routes_received(self.node, routes)
        if self._raw_labels is not None:
            self._raw_labels.update(tunnel.label for tunnel in routes.bound if tunnel.unencrypted_port)
            if len(self._raw_labels) > _MOST_RAW:
                raise ValueError("more raw tunnels than there are ports")
            if routes.whole:
                self._events.raw_tunnels_listed(self.node, self._raw_labels)
                self._raw_labels = None
        if routes.number:
            lane.send(FrameType.ROUTES_HEARD, RoutesHeard(number=routes.number).SerializeToString())
