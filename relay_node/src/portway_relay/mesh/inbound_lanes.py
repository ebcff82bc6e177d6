"""Mesh lanes that other nodes dialled: visits that they forward, and the frames of their control lanes.

Here: the handshake, which node a lane belongs to, the frames. Not here: what their content means (requests.py), visits
themselves (visits.py).
"""

import asyncio
import logging
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from typing import ClassVar, Final, Protocol

from google.protobuf.message import DecodeError
from portway_carrier.contract import Carrier, Lane, Stream
from portway_carrier.errors import CarrierError
from portway_carrier.values import ServerTls
from portway_proto.records import tunnel_record
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_PROTOCOL,
    FAILURE_CODE_VERSION,
    Answer,
    Ask,
    Failure,
    FailureCode,
    Peer,
    Routes,
    RoutesHeard,
)
from portway_proto.v1.types_pb2 import NodeState
from portway_proto.wire.frames import FrameType, Opening
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import PROTOCOL_VERSION
from portway_runtime.clocks import Monotonic
from portway_runtime.endpoints import MAX_PORT, Endpoint
from portway_runtime.half_open import STALLED_AFTER, HalfOpenConnections
from portway_runtime.identities import NodeIdentity, read_identity_der
from portway_runtime.tasks import Tasks
from portway_runtime.time_limit import time_limit
from portway_runtime.tls_choices import Group

from portway_relay.mesh.frame_budgets import PeerBudgets

logger = logging.getLogger(__name__)

# Twice the lanes that the pool of another node dials (SpareSizes.lanes): its previous pool may still be closing.
_MAX_LANES_PER_NODE: Final = 8192
# Seconds in which other nodes close the lanes that they opened to a node that stops: a few round trips.
_RETIRED_WITHIN: Final = 1.0


class MeshEvents(Protocol):
    """Receives what other nodes send. `node` is always the name in the sender's certificate."""

    def refusal(self, identity: NodeIdentity) -> str:
        """Why lanes of the holder of this certificate are refused; empty when they are accepted."""
        ...

    def is_known(self, node: str) -> bool:
        """Whether a registry has listed this node."""
        ...

    def visit_arrived(self, node: str, lane: Lane, opening: Opening) -> None:
        """A node forwards a visit: join it to a tunnel, or refuse it."""
        ...

    def routes_received(self, node: str, routes: Routes) -> Sequence[asyncio.Future[None]]:
        """A node reports tunnels that it holds, or holds no more, presences, and its state. Raises ValueError for
        what does not have its form.

        Returns a future for each raw port that this node is about to listen on, done when it does or cannot.
        """
        ...

    def raw_tunnels_listed(self, node: str, labels: set[str]) -> None:
        """A node has reported all its tunnels; these are the ones with a raw port."""
        ...

    def answer(self, label: str) -> Answer:
        """What this node knows of a label that it holds, or held until its client closed it."""
        ...


class InboundLanes:
    """The mesh lanes that other nodes opened to this one."""

    def __init__(
        self,
        carrier: Carrier,
        mesh_tls: Callable[[Group], ServerTls],
        events: MeshEvents,
        budgets: PeerBudgets,
        *,
        capacity: int,
        capacity_per_address: int,
        time_limit: float,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """capacity: handshakes that may be in progress, in all and for each address; the peer is not known until then.
        time_limit: seconds for the first frame after the handshake.
        """
        self._carrier = carrier
        self._mesh_tls = mesh_tls
        self._events = events
        self.budgets = budgets
        self._handshaking = HalfOpenConnections[Stream](
            capacity, capacity_per_address, lambda stream: stream.abort(), clock, min_age=STALLED_AFTER
        )
        self._time_limit = time_limit
        self._tasks = Tasks("inbound mesh lanes", on_failure)
        self._lanes: dict[Lane, _InboundLane] = {}
        self._count_by_node: Counter[str] = Counter()
        self._control: dict[str, _InboundLane] = {}  # the newest control lane of each node
        self._lane_gone = asyncio.Event()
        self.retiring = False
        self.greeting: set[Lane] = set()  # lanes whose first frame is awaited
        self.rejected = 0  # connections that were closed for want of room

    def __len__(self) -> int:
        """Lanes that other nodes hold."""
        return len(self._lanes)

    def __iter__(self) -> Iterator[Lane]:
        """The lanes that other nodes hold; a snapshot."""
        return iter(list(self._lanes))

    def count(self, node: str) -> int:
        """Lanes that this node holds."""
        return self._count_by_node[node]

    @property
    def connected(self) -> KeysView[str]:
        """The nodes whose control lane is up, by name."""
        return self._control.keys()

    @property
    def handshakes(self) -> int:
        """TLS handshakes in progress."""
        return len(self._handshaking)

    @property
    def evicted(self) -> int:
        """Handshakes that made no progress and were ended to make room."""
        return self._handshaking.evicted

    def accept(self, sock: socket.socket, peer: Endpoint, group: Group, established: Callable[[], None]) -> None:
        """Take a node's connection, and the ownership of its socket; `established` is called after the handshake.
        Raises TlsSettingsError."""
        stream = self._carrier.accept(sock, self._mesh_tls(group), established, peer=peer)
        if not self._handshaking.add(stream, peer.host):
            self.rejected += 1
            stream.abort()
            established()  # the peer has left no handshake unfinished
            return
        self._tasks.spawn(self._shake_hands(stream), name="handshake")

    async def close(self) -> None:
        """Ask the other nodes to close their lanes, wait a moment for that, and cut what remains.

        Only the side that opens visits knows that none is on its way. An OPEN that comes meanwhile is refused, so that
        its visitor is tried elsewhere; cut off with the lane, the visitor would be lost.
        """
        self.retiring = True
        for inbound in self._lanes.values():
            inbound.retire()
        try:
            async with time_limit(_RETIRED_WITHIN):
                await self._tasks.over()
                while any(not inbound.is_control for inbound in self._lanes.values()):
                    self._lane_gone.clear()
                    await self._lane_gone.wait()
        except TimeoutError:
            logger.debug("lanes are cut that their openers did not close", extra={"lanes": len(self._lanes)})
        await self._tasks.close()
        for lane in self:
            lane.abort()

    def drop_refused(self) -> None:
        """Close the lanes of nodes that are refused by now, because they were removed or replaced."""
        for lane, inbound in list(self._lanes.items()):
            if self._events.refusal(inbound.identity):
                lane.abort()

    async def _shake_hands(self, stream: Stream) -> None:
        try:
            try:
                handshake = await stream.ready()
            finally:
                self._handshaking.discard(stream)
            identity = read_identity_der(handshake.peer_certificate)
            refusal = "its certificate is not a node's" if identity is None else self._events.refusal(identity)
            if identity is None or refusal:
                stream.abort()
                node = "" if identity is None else identity.node
                about = {"node": node, "peer": stream.peer.host}
                logger.warning("mesh lanes are refused: %s", refusal, extra=about)
                return
            if self.count(identity.node) >= _MAX_LANES_PER_NODE:
                stream.abort()
                logger.warning("a node has as many lanes as it may have", extra={"node": identity.node})
                return
            inbound = _InboundLane(self, self._events, identity)
            lane = self._carrier.lane(stream, Side.ACCEPTOR, inbound, greeted=False)
        except CarrierError as error:
            logger.debug("a mesh connection failed: %s", error)
        except BaseException:
            stream.abort()
            raise
        else:
            self._count_by_node[identity.node] += 1
            self._lanes[lane] = inbound
            self.greeting.add(lane)
            inbound.begin(lane, asyncio.get_running_loop().call_later(self._time_limit, lane.abort))

    def control_lane_up(self, inbound: "_InboundLane") -> None:
        """A control lane takes the place of the node's previous one."""
        before = self._control.get(inbound.node)
        self._control[inbound.node] = inbound
        if before is not None:
            before.abort()

    def lane_gone(self, inbound: "_InboundLane", lane: Lane) -> None:
        node = inbound.node
        if self._control.get(node) is inbound:
            del self._control[node]
        if self._lanes.pop(lane, None) is not None:
            self._count_by_node[node] -= 1
            if not self._count_by_node[node]:
                del self._count_by_node[node]
        self.greeting.discard(lane)
        self._lane_gone.set()


class _InboundLane:
    """The LaneEvents of one lane: PEER first; then visits, or the frames of a control lane."""

    def __init__(self, lanes: InboundLanes, events: MeshEvents, identity: NodeIdentity) -> None:
        self.identity = identity
        self.node = identity.node
        self._lanes = lanes
        self._events = events
        self._budget = lanes.budgets.control_lane(identity.node)  # used once it says that it is a control lane
        self._lane: Lane | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._hello: Peer | None = None
        self._over = False  # failed or aborted here: frames that came in the same read do not count
        # Labels with a raw port in the ROUTES so far; None once the node has reported all its tunnels.
        self._raw_labels: set[str] | None = set()
        # Numbered ROUTES that are not acknowledged yet, with the ports that they wait for.
        self._unheard: deque[tuple[int, Sequence[asyncio.Future[None]]]] = deque()

    @property
    def is_control(self) -> bool:
        """Whether it is a control lane, which carries no visits."""
        return self._hello is not None and self._hello.control

    def begin(self, lane: Lane, timer: asyncio.TimerHandle) -> None:
        """Set the lane, and the timer that aborts it unless its first frame comes."""
        self._lane, self._timer = lane, timer

    def retire(self) -> None:
        """Ask the node that opened the lane to close it. Control lanes are not asked: they carry no visits."""
        if self._lane is not None and self._hello is not None and not self.is_control:
            self._lane.send(FrameType.RETIRE)

    def abort(self) -> None:
        if self._lane is not None:
            self._lane.abort()

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        if self._over:
            return
        try:
            handler = self._handlers().get(frame_type)
            if handler is None:
                raise ValueError(f"frame 0x{frame_type:02x} is not a node's to send here")
            handler(self, lane, payload)
        except (DecodeError, ValueError) as error:
            logger.warning("a node broke the protocol", extra={"node": self.node, "reason": str(error)})
            self._fail(lane, FAILURE_CODE_PROTOCOL, str(error))

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        if self._hello is None or self.is_control:
            lane.abort()
        else:
            self._events.visit_arrived(self.node, lane, opening)

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        self._stop_timer()
        self._unheard.clear()
        self._lanes.lane_gone(self, lane)

    def _fail(self, lane: Lane, code: "FailureCode.ValueType", message: str) -> None:
        self._over = True
        lane.fail(Failure(code=code, message=message).SerializeToString())

    def _handlers(self) -> "Mapping[int, _Handler]":
        """The frames that the node may send next."""
        if self._hello is None:
            return self._FIRST
        return self._ON_CONTROL_LANE if self._hello.control else {}

    def _peer(self, lane: Lane, payload: bytes) -> None:
        hello = Peer.FromString(payload)
        self._stop_timer()
        self._lanes.greeting.discard(lane)
        if hello.version != PROTOCOL_VERSION:
            message = f"this node speaks version {PROTOCOL_VERSION} of the lane protocol, not {hello.version}"
            logger.warning("a node is refused", extra={"node": self.node, "reason": message})
            self._fail(lane, FAILURE_CODE_VERSION, message)
            return
        if hello.control and not self._events.is_known(self.node):
            # What it sends now would not be believed. It dials again, and a registry lists it meanwhile.
            self._over = True
            lane.abort()
            return
        self._hello = hello
        if hello.control:
            lane.charge_to(self._budget)
            self._lanes.control_lane_up(self)
            return
        lane.charge_to(self._lanes.budgets.data_lane())
        if self._lanes.retiring:
            self.retire()

    def _routes(self, lane: Lane, payload: bytes) -> None:
        """Pass the routes on, and acknowledge them if they are numbered: this node listens on their raw ports then."""
        sent = Routes.FromString(payload)
        self._budget.entries(len(sent.bound) + len(sent.gone) + len(sent.presences))
        routes = Routes(
            bound=map(tunnel_record, sent.bound),
            gone=sent.gone,
            number=sent.number,
            whole=sent.whole,
            presences=sent.presences,
            state=sent.state if sent.state in NodeState.values() else NodeState.NODE_STATE_UNSPECIFIED,
        )
        listening = self._events.routes_received(self.node, routes)
        if self._raw_labels is not None:
            self._raw_labels.update(tunnel.label for tunnel in routes.bound if tunnel.unencrypted_port)
            if len(self._raw_labels) > MAX_PORT:
                raise ValueError("more raw tunnels than there are ports")
            if routes.whole:
                self._events.raw_tunnels_listed(self.node, self._raw_labels)
                self._raw_labels = None
        if routes.number:
            self._unheard.append((routes.number, listening))
            for one in listening:
                one.add_done_callback(lambda _: self._acknowledge(lane))
            self._acknowledge(lane)

    def _acknowledge(self, lane: Lane) -> None:
        """Send ROUTES_HEARD for the frames whose ports are listened on, in their order."""
        while self._unheard and all(one.done() for one in self._unheard[0][1]):
            number, _ = self._unheard.popleft()
            lane.send(FrameType.ROUTES_HEARD, RoutesHeard(number=number).SerializeToString())

    def _ask(self, lane: Lane, payload: bytes) -> None:
        ask = Ask.FromString(payload)
        answer = self._events.answer(ask.label)
        answer.request = ask.request
        lane.send(FrameType.ANSWER, answer.SerializeToString())

    _FIRST: ClassVar[Mapping[int, "_Handler"]] = {FrameType.PEER: _peer}
    _ON_CONTROL_LANE: ClassVar[Mapping[int, "_Handler"]] = {FrameType.ROUTES: _routes, FrameType.ASK: _ask}

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


_Handler = Callable[[_InboundLane, Lane, bytes], None]
