"""Raw ports of siblings' tunnels: what must be shown before this node listens on them, too.

Here: the checks, off the event loop and at a bounded pace: the claim and the presence that place the tunnel at the
sibling, and the ticket of the node whose block the port is of. A sibling's word alone gives a port to nobody. Not here:
which ports are served (raw_ports/sibling_ports.py).
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import Claim
from portway_runtime.clocks import Monotonic
from portway_runtime.fair_queue import FairQueue
from portway_runtime.tasks import Tasks

from portway_relay.raw_ports.owners import PortOwners
from portway_relay.raw_ports.sibling_ports import SiblingPort, SiblingPortMap, SiblingPorts
from portway_relay.raw_ports.tickets import Tickets
from portway_relay.routing.routes import Routes
from portway_relay.routing.senders import Sender
from portway_relay.routing.statement_checks import StatementChecks
from portway_relay.routing.verification import Verification

logger = logging.getLogger(__name__)

# Announcements that wait for a list of owners: a block that was just reserved gets a tunnel before the other nodes are
# told whose it is.
_MOST_WAITING: Final = 256
# Announcements that are checked together, some 20 ms of a core with their tickets. Siblings take turns, so that one
# that announces a single tunnel waits for little of what another one announces.
_TURN: Final = 32
# After each turn there is none for as long as it took: half a core for all siblings together, and far less where other
# work keeps the loop busy.
_PAUSE: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Announced:
    """A tunnel that waits for its turn; `future` is done after it."""

    sender: Sender
    tunnel: TunnelInfo
    claim: Claim
    future: "asyncio.Future[None]"


class SiblingTunnels:
    """Tunnels with raw ports that siblings announce."""

    def __init__(
        self,
        routes: Routes,
        verification: Verification,
        checks: StatementChecks,
        tickets: Tickets,
        owners: PortOwners,
        known: SiblingPortMap,
        ports: SiblingPorts,
        *,
        clock: Monotonic,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._routes = routes
        self._verification = verification
        self._checks = checks
        self._tickets = tickets
        self._owners = owners
        self._known = known
        self._ports = ports
        self._clock = clock
        self._tasks = Tasks("siblings' raw ports", on_failure)
        self._announced: FairQueue[_Announced] = FairQueue()
        self._taking_up = False
        self._waiting: dict[int, _Announced] = {}  # by a port that nobody is known to own
        owners.subscribe(self._hear_again)

    def concerns(self, tunnel: TunnelInfo) -> bool:
        """Whether it has a raw port, or had one at a sibling."""
        return bool(tunnel.unencrypted_port) or self._known.of_label(tunnel.label) is not None

    def heard(self, sender: Sender, tunnel: TunnelInfo, claim: Claim) -> "asyncio.Future[None]":
        """A sibling announces it. The future is done when this node listens on its port, or will not."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if tunnel.unencrypted_port and self._checks.wait(sender, 1):
            future.set_result(None)
            return future
        self._announced.put(sender, _Announced(sender, tunnel, claim, future))
        if not self._taking_up:
            self._taking_up = True
            self._tasks.spawn(self._take_turns(), name="take up siblings' raw ports")
        return future

    def gone(self, node: str, label: str, epoch: int) -> None:
        """A sibling does not hold the label with that epoch any more."""
        self._ports.gone(node, label, epoch)

    def whole(self, node: str, labels: set[str]) -> None:
        """A sibling holds raw tunnels of these labels and no others."""
        self._ports.whole(node, labels)

    async def close(self) -> None:
        """Stop what is being checked."""
        await self._tasks.close()
        for announced in self._announced.take(len(self._announced)):
            announced.future.cancel()

    async def _take_turns(self) -> None:
        """Take up what is announced, until there is no more."""
        try:
            while self._announced:
                began = self._clock()
                turn = self._announced.take(_TURN)
                await asyncio.wait([self._tasks.spawn(self._take_up(one), name="take up a raw port") for one in turn])
                await asyncio.sleep(_PAUSE * (self._clock() - began))
        finally:
            self._taking_up = False

    async def _take_up(self, announced: "_Announced") -> None:
        try:
            await self._check(announced)
        finally:
            if not announced.future.done():
                announced.future.set_result(None)

    async def _check(self, announced: "_Announced") -> None:
        """Listen on its port, if it has shown what it must."""
        claim, port = announced.claim, announced.tunnel.unencrypted_port
        if port and self._owners.owner(port) is None:
            if port in self._waiting or len(self._waiting) < _MOST_WAITING:
                self._waiting[port] = announced
            return
        if port and not await self._may_have(announced.sender, announced.tunnel):
            return
        await self._verification.settle(claim.label)
        route = self._routes.placed(claim.label)
        if route is not None and route.claim.encoded == claim.encoded:
            self._ports.bound(SiblingPort(claim.label, claim.node, claim.epoch, port))

    def _hear_again(self) -> None:
        """Owners of more ports may be known now."""
        waiting, self._waiting = self._waiting, {}
        for announced in waiting.values():
            self.heard(announced.sender, announced.tunnel, announced.claim)

    async def _may_have(self, sender: Sender, tunnel: TunnelInfo) -> bool:
        """Whether the newest ticket of the port's owner is for this label."""
        unchecked = self._tickets.unchecked(tunnel.ticket)
        await self._checks.check(unchecked, sender)
        ticket = unchecked.ticket
        fits = ticket is not None and (ticket.label, ticket.port) == (tunnel.label, tunnel.unencrypted_port)
        if ticket is None or not fits or self._owners.newest(ticket) is None:
            logger.warning(
                "a sibling's raw port is not served: it has not shown the newest ticket for it",
                extra={"peer": sender.name, "port": tunnel.unencrypted_port, "reason": unchecked.failure},
            )
            return False
        return True
