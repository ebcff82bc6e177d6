"""The tunnels of one session: its BIND, UNBIND and MOVED requests, and what happens to them while the client is away.

Here: the session's own limits, what a raw tunnel waits for before BOUND, UNBOUND notices. Not here: which binding of a
label wins (routing/table.py), which raw port a tunnel gets (raw_ports/), the control lane itself (session.py).
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from portway_carrier.contract import Pool
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_INVALID,
    FAILURE_CODE_OVERLOADED,
    Bind,
    BindRefused,
    Bound,
    Failure,
    Moved,
    Unbind,
    Unbound,
)
from portway_proto.wire.frames import FrameType
from portway_proto.wire.labels import short_label
from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import Turns

from portway_relay.config import NodeLimits
from portway_relay.errors import Refused, TicketInvalid
from portway_relay.net.node_address import PublicAddress
from portway_relay.raw_ports.region_addresses import RegionAddresses
from portway_relay.raw_ports.tickets import Tickets
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import Tunnel
from portway_relay.sessions.grants import Grant

logger = logging.getLogger(__name__)


# client_moved(tunnel, node, epoch, proof): the client says that it has bound a tunnel of this node at `node`.
ClientMoved = Callable[[Tunnel, str, int, bytes], None]


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What all sessions of a node share.

    public_address: called for each BOUND, because the port is known only once the node listens.
    """

    limits: NodeLimits
    table: TunnelTable
    tickets: Tickets
    addresses: RegionAddresses
    public_address: Callable[[], PublicAddress]
    client_moved: ClientMoved
    clock: Monotonic


class SessionTunnels:
    """The tunnels that one session holds, by label. The Holder that the tunnel table knows them by."""

    def __init__(
        self,
        grant: Grant,
        pool: Pool,
        context: SessionContext,
        send: Callable[[FrameType, Message], None],
        released: Callable[[Tunnel], None],
    ) -> None:
        """`send` writes a frame to the control lane, or drops it while there is none. `released` is called with each
        tunnel that the client gives up."""
        self.grant = grant
        self.by_label: dict[str, Tunnel] = {}
        self._pool = pool
        self._context = context
        self._send = send
        self._released = released
        limits = context.limits
        self._bind_turns = Turns(limits.binds_per_second, limits.bind_burst, context.clock)
        # UNBOUND notices, sent again when the session resumes: a lane that broke may not have delivered them.
        self._notices: BoundedMap[str, tuple[Tunnel, Failure]] = BoundedMap(limits.max_tunnels_per_session)
        self._pending: dict[str, asyncio.Task[None]] = {}  # BINDs that are not answered yet, by label

    def __len__(self) -> int:
        return len(self.by_label)

    # The Holder.

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
    def tenant_max_tunnels(self) -> int:
        return self.grant.tenant_max_tunnels

    @property
    def pool(self) -> Pool:
        return self._pool

    def tunnel_taken(self, tunnel: Tunnel, failure: Failure) -> None:
        if self.by_label.get(tunnel.label) is tunnel:
            del self.by_label[tunnel.label]
        self._notices[tunnel.label] = (tunnel, failure)
        self._send(FrameType.UNBOUND, Unbound(label=tunnel.label, failure=failure))

    # The life of the session.

    def suspend(self) -> None:
        """The client lost its control lane: visitors are not routed to its tunnels until it resumes."""
        self.cancel_pending()
        for tunnel in self.by_label.values():
            self._context.table.suspend(tunnel)

    def resume(self) -> None:
        """The client is back: route visitors to its tunnels again. UNBOUND goes out for those that it lost."""
        for label, (_, failure) in self._notices.items():
            self._send(FrameType.UNBOUND, Unbound(label=label, failure=failure))
        for tunnel in list(self.by_label.values()):
            try:
                self._context.table.resume(tunnel)
            except Refused as refused:
                self.tunnel_taken(tunnel, refused.failure)

    def release(self, *, closed: bool) -> None:
        """Release every tunnel. `closed`: the client does not bind them at another node."""
        self.cancel_pending()
        for tunnel in self.by_label.values():
            self._context.table.release(tunnel, closed=closed)
            self._released(tunnel)
        self.by_label.clear()

    def cancel_pending(self) -> None:
        """Drop the BINDs that are not answered yet; a client sends them again on its next control lane."""
        for label in list(self._pending):
            self._cancel(label)

    # Requests of the control lane. They raise DecodeError for a malformed payload.

    def bind(self, payload: bytes) -> None:
        """Answer BIND with BOUND or BIND_REFUSED: at once, or when the tunnel's raw port can be used."""
        bind = Bind.FromString(payload)
        addresses = self._context.addresses
        self._cancel(bind.label)
        try:
            self._check(bind)
            if not bind.options.unencrypted:
                self._answer(bind, self._claim(bind, None))
                return
            wanted = self._ticket_port(bind)
            if not addresses.at_once(bind.label, wanted):
                self._answer_later(bind, self._bind_when_prepared(bind, wanted))
                return
            tunnel = self._claim(bind, wanted)
        except Refused as refused:
            self._refuse(bind, refused)
            return
        siblings = addresses.taken()
        if siblings:
            self._answer_later(bind, self._answer_when_listening(bind, tunnel, siblings))
        else:
            self._answer(bind, tunnel)

    def unbind(self, payload: bytes) -> None:
        """Release a tunnel for good. UNBIND is not answered, and ignored for a label that the session does not hold."""
        label = Unbind.FromString(payload).label
        self._notices.pop(label, None)
        self._cancel(label)
        tunnel = self.by_label.pop(label, None)
        if tunnel is not None:
            self._context.table.release(tunnel, closed=True)
            self._released(tunnel)

    def moved(self, payload: bytes) -> None:
        """Report where the client bound a tunnel next.

        Ignored unless the session holds the tunnel, or held it until it was taken: a registry may take a tunnel before
        this node learns where it is now.
        """
        moved = Moved.FromString(payload)
        taken, _ = self._notices.get(moved.label, (None, None))
        tunnel = self.by_label.get(moved.label, taken)
        if tunnel is not None:
            self._context.client_moved(tunnel, moved.node, moved.epoch, moved.proof)

    # BIND, step by step.

    def _check(self, bind: Bind) -> None:
        """Raise Refused for options that exclude each other and above the session's limits."""
        if bind.options.h2_enabled and bind.options.unencrypted:
            raise Refused(FAILURE_CODE_INVALID, "h2_enabled and unencrypted exclude each other: open two tunnels")
        if turn := self._bind_turns.take():
            raise Refused(
                FAILURE_CODE_OVERLOADED, "too many tunnels were requested at once: slow down", retry_after=turn
            )
        limit = self._context.limits.max_tunnels_per_session
        if bind.label not in self.by_label and len(self.by_label) + len(self._pending) >= limit:
            raise Refused(FAILURE_CODE_OVERLOADED, f"one client may have {limit} tunnels at this node: close one first")

    def _ticket_port(self, bind: Bind) -> int | None:
        """The raw port in the client's ticket; None without a valid one."""
        if not bind.ticket:
            return None
        try:
            return self._context.tickets.verify(bind.ticket, bind.label)
        except TicketInvalid as error:
            logger.info("ticket not accepted", extra={"label": short_label(bind.label), "reason": str(error)})
            return None

    def _claim(self, bind: Bind, wanted_port: int | None) -> Tunnel:
        """The new tunnel. Raises Refused."""
        tunnel = self._context.table.claim(
            self,
            bind.label,
            bind.epoch,
            bind.proof,
            h2_enabled=bind.options.h2_enabled,
            unencrypted=bind.options.unencrypted,
            wanted_port=wanted_port,
        )
        self.by_label[tunnel.label] = tunnel
        self._notices.pop(tunnel.label, None)
        logger.info(
            "tunnel bound", extra={"label": short_label(tunnel.label), "epoch": tunnel.epoch, "tenant": self.tenant}
        )
        return tunnel

    async def _bind_when_prepared(self, bind: Bind, wanted_port: int | None) -> None:
        wanted_port = await self._context.addresses.prepare(bind.label, wanted_port)
        try:
            tunnel = self._claim(bind, wanted_port)
        except Refused as refused:
            self._refuse(bind, refused)
            return
        await self._answer_when_listening(bind, tunnel, self._context.addresses.taken())

    async def _answer_when_listening(self, bind: Bind, tunnel: Tunnel, siblings: list[asyncio.Future[None]]) -> None:
        """Answer once these siblings listen on the raw port; each future is done when one does."""
        if siblings:
            await self._context.addresses.listening(siblings)
        if self.by_label.get(bind.label) is tunnel:
            self._answer(bind, tunnel)
        else:
            self._refuse(bind, Refused(FAILURE_CODE_EPOCH, "the tunnel was bound again elsewhere meanwhile"))

    def _answer_later(self, bind: Bind, answering: Coroutine[Any, Any, None]) -> None:
        """Run `answering`, until another request for the label or the loss of the control lane cancels it."""
        task = self._pending[bind.label] = self._context.addresses.spawn(answering)

        def ended(task: asyncio.Task[None]) -> None:
            if self._pending.get(bind.label) is task:
                del self._pending[bind.label]

        task.add_done_callback(ended)

    def _cancel(self, label: str) -> None:
        task = self._pending.pop(label, None)
        if task is not None:
            task.cancel()

    def _answer(self, bind: Bind, tunnel: Tunnel) -> None:
        address = self._context.public_address()
        bound = Bound(request=bind.request, host=f"{tunnel.label}.{address.zone}", port=address.port)
        if tunnel.raw is not None:
            bound.unencrypted_host = address.raw_host
            bound.unencrypted_port = tunnel.raw.port
            bound.ticket = self._context.tickets.sign(tunnel.label, tunnel.raw.port)
        self._send(FrameType.BOUND, bound)

    def _refuse(self, bind: Bind, refused: Refused) -> None:
        self._send(FrameType.BIND_REFUSED, BindRefused(request=bind.request, failure=refused.failure))
