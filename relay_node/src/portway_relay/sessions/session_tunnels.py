"""The tunnels of one session: its BIND, UNBIND and MOVED requests, and what happens to them while the client is away.

Here: the form of claims, the session's own limits, what BOUND waits for, UNBOUND notices. Not here: presences
(session_presence.py), which binding of a label wins (routing/table.py), which raw port a tunnel gets (raw_ports/), the
control lane itself (session.py).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from google.protobuf.message import Message
from portway_carrier.contract import Pool
from portway_proto.records import InvalidRecord, claimed_options
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_CLAIM,
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_INVALID,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_TIME,
    Bind,
    BindRefused,
    Bound,
    Failure,
    Moved,
    Unbind,
    Unbound,
)
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_proto.wire.frames import FrameType
from portway_proto.wire.labels import short_label
from portway_proto.wire.statements import (
    Claim,
    Presence,
    StatementInvalid,
    is_believable_epoch,
    read_claim,
    read_presence,
)
from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic, RegistryClock
from portway_runtime.rates import Turns
from portway_runtime.tasks import Tasks

from portway_relay.config import NodeLimits
from portway_relay.errors import Refused
from portway_relay.net.node_address import PublicAddress
from portway_relay.raw_ports.owners import PortOwners
from portway_relay.raw_ports.region_addresses import RegionAddresses
from portway_relay.raw_ports.tickets import Ticket, Tickets
from portway_relay.routing.routes import Routes
from portway_relay.routing.statement_checks import StatementChecks
from portway_relay.routing.table import TunnelTable
from portway_relay.routing.tunnel import Holder, Tunnel
from portway_relay.routing.verification import Verification
from portway_relay.sessions.grants import Grant, GrantVerifier
from portway_relay.sessions.session_presence import TIME, SessionPresence

# Characters of a host name (RFC 1035 §2.3.4) that are kept of what a client calls its tunnel's host.
_LONGEST_HOST: Final = 253

logger = logging.getLogger(__name__)


class PresenceAnnouncer(Protocol):
    """Announces presences to a registry and to other nodes."""

    def presence_renewed(self, holder: Holder, presence: Presence, tunnels: Iterable[Tunnel]) -> None:
        """A session that holds these tunnels, or is about to bind some, has a presence that was checked."""
        ...


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What all sessions of a node share.

    node: its name.
    public_address: called for each BOUND, because the port is known only once the node listens.
    tasks: runs the requests that are not answered at once.
    """

    node: str
    limits: NodeLimits
    grants: GrantVerifier
    table: TunnelTable
    routes: Routes
    verification: Verification
    checks: StatementChecks
    announcer: PresenceAnnouncer
    tickets: Tickets
    owners: PortOwners
    addresses: RegionAddresses
    public_address: Callable[[], PublicAddress]
    tasks: Tasks
    clock: Monotonic
    registry_clock: RegistryClock


class SessionTunnels:
    """The tunnels that one session holds, by label. The Holder that the tunnel table knows them by."""

    def __init__(
        self,
        grant: Grant,
        pool: Pool,
        context: SessionContext,
        send: Callable[[FrameType, Message], None],
        released: Callable[[Tunnel], None],
        granted: Callable[[Grant], None],
        broken: Callable[[str], None],
    ) -> None:
        """
        send: writes a frame to the control lane, or drops it while there is none.
        released: called with each tunnel that the client gives up.
        granted: called with each newer grant, once it is verified.
        broken: called with the reason when the client has broken the protocol.
        """
        self.shown = SessionPresence(
            grant,
            context.node,
            context.checks,
            context.grants,
            context.registry_clock,
            renewed=self._renewed,
            granted=granted,
            broken=broken,
        )
        self.by_label: dict[str, Tunnel] = {}
        self._pool = pool
        self._context = context
        self._send = send
        self._released = released
        limits = context.limits
        self._bind_turns = Turns(limits.binds_per_second, limits.bind_burst, context.clock)
        # UNBOUND notices, sent again when the session resumes: a lane that broke may not have delivered them.
        self._notices: BoundedMap[str, tuple[Tunnel, Unbound]] = BoundedMap(limits.max_tunnels_per_session)
        self._pending: dict[str, asyncio.Task[None]] = {}  # BINDs that are not answered yet, by label
        # What the last MOVED of a tunnel shows, while it is being checked.
        self._following: dict[Tunnel, Claim] = {}
        self._left: set[Tunnel] = set()  # of `_following`: the client has left before the check ended

    def __len__(self) -> int:
        return len(self.by_label)

    # The Holder.

    @property
    def tenant(self) -> str:
        return self.shown.grant.tenant

    @property
    def token_id(self) -> str:
        return self.shown.grant.token_id

    @property
    def max_tunnels(self) -> int:
        return self.shown.grant.max_tunnels

    @property
    def tenant_max_tunnels(self) -> int:
        return self.shown.grant.tenant_max_tunnels

    @property
    def pool(self) -> Pool:
        return self._pool

    @property
    def grant_token(self) -> str:
        return self.shown.grant.encoded

    @property
    def presence(self) -> Presence | None:
        return self.shown.checked

    def tunnel_taken(self, tunnel: Tunnel, failure: Failure, claim: bytes = b"") -> None:
        if self.by_label.get(tunnel.label) is tunnel:
            del self.by_label[tunnel.label]
        notice = Unbound(label=tunnel.label, failure=failure, claim=claim)
        self._notices[tunnel.label] = (tunnel, notice)
        self._send(FrameType.UNBOUND, notice)

    # The life of the session.

    def suspend(self) -> None:
        """The client lost its control lane: visitors are not routed to its tunnels until it resumes."""
        self.cancel_pending()
        for tunnel in self.by_label.values():
            self._context.table.suspend(tunnel)

    def resume(self) -> None:
        """The client is back: route visitors to its tunnels again. UNBOUND goes out for those that it lost."""
        for _, notice in self._notices.values():
            self._send(FrameType.UNBOUND, notice)
        for tunnel in list(self.by_label.values()):
            try:
                self._context.table.resume(tunnel)
            except Refused as refused:
                self.tunnel_taken(tunnel, refused.failure, refused.claim)

    def release(self, *, closed: bool) -> None:
        """Release every tunnel. `closed`: the client does not bind them at another node.

        Those that are bound at another node are not closed. Of those that the client has just said to be, the check
        decides when it has ended: until then visitors wait, and visits in progress go on.
        """
        self.cancel_pending()
        for tunnel in self.by_label.values():
            following = tunnel in self._following
            elsewhere = following or self._context.routes.is_elsewhere(tunnel.claim)
            self._context.table.release(tunnel, closed=closed and not elsewhere)
            if following:
                self._left.add(tunnel)
            elif not elsewhere:
                self._released(tunnel)
        self.by_label.clear()

    def cancel_pending(self) -> None:
        """Drop the BINDs that are not answered yet; a client sends them again on its next control lane."""
        for label in list(self._pending):
            self._cancel(label)

    # Requests of the control lane. They raise DecodeError and StatementInvalid for a malformed payload.

    def bind(self, payload: bytes) -> None:
        """Answer BIND with BOUND or BIND_REFUSED, once its signatures are checked and its raw port can be used."""
        bind = Bind.FromString(payload)
        try:
            claim, options = self._read(bind)
            self._cancel(claim.label)
            held = self._context.table.held(self, claim)
            if held is not None:
                self._answer(bind, held)
                return
            self._check(claim, options)
        except Refused as refused:
            self._refuse(bind, refused)
            return
        task = self._pending[claim.label] = self._context.tasks.spawn(self._bind(bind, claim, options), name="bind")
        task.add_done_callback(lambda task: self._bind_ended(claim.label, task))

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
        if tunnel is None:
            return
        claim, presence = read_claim(moved.claim), read_presence(moved.presence)
        if claim.label != tunnel.label:
            return
        self._context.routes.hear_moved(self.shown.sender, claim, presence)
        self._following[tunnel] = claim
        self._context.tasks.spawn(self._follow(tunnel, claim), name="follow a client")

    async def _follow(self, tunnel: Tunnel, claim: Claim) -> None:
        """Check what MOVED shows. When it is genuine the tunnel goes to the other node; otherwise the client has said
        nothing, and a tunnel that it has left meanwhile is closed."""
        context = self._context
        await context.verification.settle(claim.label)
        if self._following.get(tunnel) is not claim:
            return  # it has said something else since
        del self._following[tunnel]
        if tunnel in self._left:
            self._left.discard(tunnel)
            if not context.routes.is_elsewhere(tunnel.claim):
                context.table.close_released(tunnel)
                self._released(tunnel)

    # BIND, step by step.

    def _read(self, bind: Bind) -> tuple[Claim, TunnelOptions]:
        """The claim and the options in it. Raises Refused unless it is for this node and this session."""
        try:
            claim = read_claim(bind.claim)
            options = claimed_options(claim.options)
        except (StatementInvalid, InvalidRecord):
            raise Refused(FAILURE_CODE_CLAIM, "the claim is malformed") from None
        if (claim.node, claim.session_key) != (self._context.node, self.shown.grant.session_key):
            raise Refused(FAILURE_CODE_CLAIM, "the claim is for another node or another session")
        return claim, options

    def _check(self, claim: Claim, options: TunnelOptions) -> None:
        """Raise Refused for options that exclude each other, for a claim that is not of now or that the client does not
        present, above the session's limits and above the token's budget of signatures."""
        context = self._context
        if options.h2_enabled and options.unencrypted:
            raise Refused(FAILURE_CODE_INVALID, "h2_enabled and unencrypted exclude each other: open two tunnels")
        if turn := self._bind_turns.take():
            raise Refused(
                FAILURE_CODE_OVERLOADED, "too many tunnels were requested at once: slow down", retry_after=turn
            )
        limit = context.limits.max_tunnels_per_session
        if claim.label not in self.by_label and len(self.by_label) + len(self._pending) >= limit:
            raise Refused(FAILURE_CODE_OVERLOADED, f"one client may have {limit} tunnels at this node: close one first")
        if not is_believable_epoch(claim.epoch, context.registry_clock.now_ms()):
            raise Refused(FAILURE_CODE_TIME, TIME)
        if wait := context.checks.wait(self.shown.sender, 1 + self.shown.demand(claim)):
            raise Refused(
                FAILURE_CODE_OVERLOADED,
                "this token's tunnels come back too fast: try again in a moment",
                retry_after=wait,
            )

    async def _bind(self, bind: Bind, claim: Claim, options: TunnelOptions) -> None:
        context, label = self._context, claim.label
        try:
            genuine = context.checks.check(claim.signed(context.checks.cluster), self.shown.sender)
            if not await self.shown.genuine() or not await genuine:
                raise Refused(FAILURE_CODE_CLAIM, "the claim, or the presence that lists it, is forged")
            await context.verification.settle(label, above=claim)
            ticket = await self._ticket(bind, label) if options.unencrypted else None
            if options.unencrypted:
                await context.addresses.prepare(label, None if ticket is None else ticket.port)
            tunnel = context.table.bind(self, claim, options, ticket, bind.host[:_LONGEST_HOST])
        except Refused as refused:
            self._refuse(bind, refused)
            return
        self.by_label[label] = tunnel
        self._notices.pop(label, None)
        logger.info("tunnel bound", extra={"label": short_label(label), "epoch": tunnel.epoch, "tenant": self.tenant})
        siblings = context.addresses.taken() if options.unencrypted else []
        if siblings:
            await context.addresses.listening(siblings)
        if self.by_label.get(label) is tunnel:
            self._answer(bind, tunnel)
        else:
            self._refuse(bind, Refused(FAILURE_CODE_EPOCH, "the tunnel was bound again elsewhere meanwhile"))

    async def _ticket(self, bind: Bind, label: str) -> Ticket | None:
        """The newest ticket for the port that the client's ticket names; None when that is not this label's."""
        if not bind.ticket:
            return None
        context = self._context
        unchecked = context.tickets.unchecked(bind.ticket)
        if not context.checks.wait(self.shown.sender, 1):
            await context.checks.check(unchecked, self.shown.sender)
        ticket = unchecked.ticket
        newest = None if ticket is None or ticket.label != label else context.owners.newest(ticket)
        if newest is None:
            reason = unchecked.failure or "not the newest ticket for the port, or of another node or label"
            logger.info("ticket not accepted", extra={"label": short_label(label), "reason": reason})
        return newest

    def _renewed(self, presence: Presence) -> None:
        """The session has a later presence: others hear of it before they hear of the tunnels that it lists."""
        self._context.announcer.presence_renewed(self, presence, self.by_label.values())

    def _bind_ended(self, label: str, task: asyncio.Task[None]) -> None:
        if self._pending.get(label) is task:
            del self._pending[label]

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
            bound.ticket = tunnel.raw.ticket
        self._send(FrameType.BOUND, bound)

    def _refuse(self, bind: Bind, refused: Refused) -> None:
        self._send(
            FrameType.BIND_REFUSED, BindRefused(request=bind.request, failure=refused.failure, claim=refused.claim)
        )
