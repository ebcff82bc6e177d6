"""One client's session: its control lane, its pool of data lanes, its tunnels.

Here: what each frame of the control lane asks for and what it is answered. Not here: who may begin or resume a session
(sessions.py), whose a label is (tunnels/table.py).
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from google.protobuf.message import Message
from portway_carrier.contract import Lane, Pool
from portway_carrier.errors import CarrierError
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_INVALID,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_PROTOCOL,
    Bind,
    BindRefused,
    Bound,
    Failure,
    Goaway,
    Moved,
    Unbind,
    Unbound,
)
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_runtime.rates import Turns

from portway_relay.errors import Refused, TicketInvalid
from portway_relay.raw_ports.region_addresses import RegionAddresses
from portway_relay.raw_ports.tickets import Tickets
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import Tunnel, short
from portway_relay.sessions.grants import Grant
from portway_relay.sessions.messages import read

logger = logging.getLogger(__name__)

_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """Where this node's tunnels are: `zone` follows the label, raw ports are at `raw_host`."""

    zone: str
    port: int
    raw_host: str


# A tunnel of this node is bound at the named node now, with this epoch and proof, as its client says.
TunnelMoved = Callable[[Tunnel, str, int, bytes], None]


class SessionOwner(Protocol):
    """Who keeps the session."""

    def control_lost(self, session: "Session") -> None:
        """The client is away; it may come back."""
        ...

    def session_left(self, session: "Session") -> None:
        """The client is gone for good."""
        ...

    def tunnel_left(self, tunnel: Tunnel) -> None:
        """The client let go of a tunnel; visits in progress may finish for a while."""
        ...


class Session:
    """Also the LaneEvents of its control lane, and the Holder of its tunnels."""

    def __init__(
        self,
        grant: Grant,
        pool: Pool,
        owner: SessionOwner,
        table: TunnelTable,
        tickets: Tickets,
        addresses: RegionAddresses,
        address: PublicAddress,
        *,
        moved: TunnelMoved,
        bind_turns: Turns,
        max_tunnels: int,
    ) -> None:
        """`max_tunnels` is the node's own limit for a session; the token's quota is the table's business."""
        self.id = secrets.token_bytes(_ID_BYTES)
        self.secret = secrets.token_bytes(_SECRET_BYTES)
        self.grant = grant
        self.control: Lane | None = None
        self.tunnels: dict[str, Tunnel] = {}
        self._pool = pool
        self._owner = owner
        self._table = table
        self._tickets = tickets
        self._addresses = addresses
        self._address = address
        self._tunnel_moved = moved
        self._bind_turns = bind_turns
        self._most = max_tunnels
        # What the client was told to be over, the oldest first: said again when it resumes, for it may not have heard.
        self._unbound: dict[str, tuple[Tunnel, Failure]] = {}
        self._asked_to_leave = False
        self._waiting: dict[str, asyncio.Task[None]] = {}  # BINDs that are not answered yet, by label

    # The Holder of its tunnels.

    @property
    def tenant(self) -> str:
        return self.grant.tenant

    @property
    def token_id(self) -> str:
        return self.grant.token_id

    @property
    def max_tunnels(self) -> int:
        return self.grant.max_tunnels

    @property
    def pool(self) -> Pool:
        return self._pool

    def tunnel_taken(self, tunnel: Tunnel, failure: Failure) -> None:
        if self.tunnels.get(tunnel.label) is tunnel:
            del self.tunnels[tunnel.label]
        self._unbound.pop(tunnel.label, None)
        self._unbound[tunnel.label] = (tunnel, failure)
        if len(self._unbound) > self._most:
            del self._unbound[next(iter(self._unbound))]
        self._send(FrameType.UNBOUND, Unbound(label=tunnel.label, failure=failure))

    # What its owner does with it.

    def attach(self, control: Lane) -> None:
        """From now on this is its control lane; another one is closed."""
        for label in list(self._waiting):
            self._wait_no_more(label)
        before, self.control = self.control, control
        if before is not None:
            before.close()
        self._pool.attach_control(control)

    def wake(self) -> None:
        """Its client is back: visitors are routed to its tunnels again. What cannot be had again is UNBOUND."""
        for label, (_, failure) in self._unbound.items():
            self._send(FrameType.UNBOUND, Unbound(label=label, failure=failure))
        for tunnel in list(self.tunnels.values()):
            try:
                self._table.resume(tunnel)
            except Refused as refused:
                self.tunnel_taken(tunnel, refused.failure)

    def goaway(self, failure: Failure) -> None:
        """Ask the client to leave."""
        self._asked_to_leave = True
        self._send(FrameType.GOAWAY, Goaway(failure=failure))

    def end(self, failure: Failure | None, *, closed: bool) -> None:
        """Let go of its tunnels and its control lane, with FAIL when there is a reason. Data lanes go as they become
        idle. `closed`: its client does not take the tunnels elsewhere."""
        control, self.control = self.control, None
        for label in list(self._waiting):
            self._wait_no_more(label)
        for tunnel in self.tunnels.values():
            self._table.release(tunnel, closed=closed)
            self._owner.tunnel_left(tunnel)
        self.tunnels.clear()
        self._pool.retire()
        if control is not None and failure is not None:
            control.fail(failure.SerializeToString())
        elif control is not None:
            control.close()

    # The LaneEvents of its control lane; one that was replaced has nothing to say any more.

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        if lane is not self.control:
            return
        handle = _HANDLERS.get(frame_type)
        try:
            if handle is None:
                raise Refused(FAILURE_CODE_PROTOCOL, f"frame 0x{frame_type:02x} is not a client's to send here")
            handle(self, payload)
        except Refused as refused:
            logger.warning("a client broke the protocol", extra={"peer": lane.peer.host, "reason": refused.message})
            lane.fail(refused.failure.SerializeToString())
            self._away(refused.message)

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.refuse(RefusalReason.OTHER, "visits are opened by the node")

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        if lane is self.control:
            self._away(str(error))

    def _away(self, reason: str) -> None:
        """No control lane any more; the client may come back with one."""
        self.control = None
        self._pool.attach_control(None)
        for label in list(self._waiting):
            self._wait_no_more(label)
        for tunnel in self.tunnels.values():
            self._table.suspend(tunnel)
        logger.info("client away", extra={"tunnels": len(self.tunnels), "reason": reason})
        self._owner.control_lost(self)

    def _bind(self, payload: bytes) -> None:
        bind = read(Bind, payload)
        self._wait_no_more(bind.label)
        try:
            self._check(bind)
            if not bind.options.unencrypted:
                self._answer(bind, self._claim(bind, None))
                return
            wanted = self._wanted_port(bind)
            if not self._addresses.at_once(bind.label, wanted):
                self._wait(bind, self._bind_when_prepared(bind, wanted))
                return
            tunnel = self._claim(bind, wanted)
        except Refused as refused:
            self._refuse(bind, refused)
            return
        unacknowledged = self._addresses.taken()
        if unacknowledged:
            self._wait(bind, self._answer_when_acknowledged(bind, tunnel, unacknowledged))
        else:
            self._answer(bind, tunnel)

    async def _bind_when_prepared(self, bind: Bind, wanted: int | None) -> None:
        wanted = await self._addresses.prepare(bind.label, wanted)
        try:
            tunnel = self._claim(bind, wanted)
        except Refused as refused:
            self._refuse(bind, refused)
            return
        await self._answer_when_acknowledged(bind, tunnel, self._addresses.taken())

    async def _answer_when_acknowledged(self, bind: Bind, tunnel: Tunnel, waiting: list[asyncio.Future[None]]) -> None:
        if waiting:
            await self._addresses.listening(waiting)
        if self.tunnels.get(bind.label) is tunnel:
            self._answer(bind, tunnel)
        else:
            self._refuse(bind, Refused(FAILURE_CODE_EPOCH, "the tunnel was bound again elsewhere meanwhile"))

    def _answer(self, bind: Bind, tunnel: Tunnel) -> None:
        bound = Bound(request=bind.request, host=f"{tunnel.label}.{self._address.zone}", port=self._address.port)
        if tunnel.raw is not None:
            bound.unencrypted_host = self._address.raw_host
            bound.unencrypted_port = tunnel.raw.port
            bound.ticket = self._tickets.sign(tunnel.label, tunnel.raw.port)
        self._send(FrameType.BOUND, bound)

    def _refuse(self, bind: Bind, refused: Refused) -> None:
        self._send(FrameType.BIND_REFUSED, BindRefused(request=bind.request, failure=refused.failure))

    def _check(self, bind: Bind) -> None:
        """Whether the request may be looked at. Raises Refused."""
        if bind.options.h2_enabled and bind.options.unencrypted:
            raise Refused(FAILURE_CODE_INVALID, "h2_enabled and unencrypted exclude each other: open two tunnels")
        if turn := self._bind_turns.take():
            raise Refused(
                FAILURE_CODE_OVERLOADED, "too many tunnels were asked for at once: slow down", retry_after=turn
            )
        if bind.label not in self.tunnels and len(self.tunnels) + len(self._waiting) >= self._most:
            raise Refused(
                FAILURE_CODE_OVERLOADED, f"one client may have {self._most} tunnels at this node: close one first"
            )

    def _claim(self, bind: Bind, wanted_port: int | None) -> Tunnel:
        tunnel = self._table.claim(
            self,
            bind.label,
            bind.epoch,
            bind.proof,
            h2_enabled=bind.options.h2_enabled,
            unencrypted=bind.options.unencrypted,
            wanted_port=wanted_port,
        )
        self.tunnels[tunnel.label] = tunnel
        self._unbound.pop(tunnel.label, None)
        logger.info("tunnel bound", extra={"label": short(tunnel.label), "epoch": tunnel.epoch, "tenant": self.tenant})
        return tunnel

    def _wait(self, bind: Bind, until: Coroutine[Any, Any, None]) -> None:
        """Answer later. Nothing is answered any more once the client has said something else of it, or is away."""
        task = self._waiting[bind.label] = self._addresses.spawn(until)

        def over(task: asyncio.Task[None]) -> None:
            if self._waiting.get(bind.label) is task:
                del self._waiting[bind.label]

        task.add_done_callback(over)

    def _wait_no_more(self, label: str) -> None:
        task = self._waiting.pop(label, None)
        if task is not None:
            task.cancel()

    def _wanted_port(self, bind: Bind) -> int | None:
        if not bind.ticket:
            return None
        try:
            return self._tickets.verify(bind.ticket, bind.label)
        except TicketInvalid as error:
            logger.info("a ticket is not taken", extra={"label": short(bind.label), "reason": str(error)})
            return None

    def _unbind(self, payload: bytes) -> None:
        label = read(Unbind, payload).label
        self._unbound.pop(label, None)
        self._wait_no_more(label)
        tunnel = self.tunnels.pop(label, None)
        if tunnel is not None:
            self._table.release(tunnel, closed=True)
            self._owner.tunnel_left(tunnel)

    def _moved(self, payload: bytes) -> None:
        """Of its own tunnels alone; a registry may have had one taken from it, and not have said yet where it is."""
        moved = read(Moved, payload)
        taken, _ = self._unbound.get(moved.label, (None, None))
        tunnel = self.tunnels.get(moved.label, taken)
        if tunnel is not None:
            self._tunnel_moved(tunnel, moved.node, moved.epoch, moved.proof)

    def _leave(self, payload: bytes) -> None:
        read(Goaway, payload)
        # Who was asked to leave has its tunnels at another node by now, or on their way there.
        self.end(None, closed=not self._asked_to_leave)
        self._owner.session_left(self)

    def _send(self, frame_type: FrameType, message: Message) -> None:
        if self.control is not None:
            self.control.send(frame_type, message.SerializeToString())


_HANDLERS: Final[dict[int, Callable[[Session, bytes], None]]] = {
    FrameType.BIND: Session._bind,
    FrameType.UNBIND: Session._unbind,
    FrameType.MOVED: Session._moved,
    FrameType.GOAWAY: Session._leave,
}
