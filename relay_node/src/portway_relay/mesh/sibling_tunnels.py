"""Raw ports of siblings' tunnels: what must be shown before this node listens on them, too.

Here: the checks, off the event loop: the claim and the presence that place the tunnel at the sibling, and the ticket of
the node whose block the port is of. A sibling's word alone gives a port to nobody. Not here: which ports are served
(raw_ports/sibling_ports.py).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import Claim
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
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._routes = routes
        self._verification = verification
        self._checks = checks
        self._tickets = tickets
        self._owners = owners
        self._known = known
        self._ports = ports
        self._tasks = Tasks("siblings' raw ports", on_failure)
        self._waiting: dict[int, tuple[Sender, TunnelInfo, Claim]] = {}  # by a port that nobody is known to own
        owners.subscribe(self._hear_again)

    def concerns(self, tunnel: TunnelInfo) -> bool:
        """Whether it has a raw port, or had one at a sibling."""
        return bool(tunnel.unencrypted_port) or self._known.of_label(tunnel.label) is not None

    def heard(self, sender: Sender, tunnel: TunnelInfo, claim: Claim) -> "asyncio.Future[None]":
        """A sibling announces it. The future is done when this node listens on its port, or will not."""
        return self._tasks.spawn(self._take_up(sender, tunnel, claim), name="take up a sibling's raw port")

    def gone(self, node: str, label: str, epoch: int) -> None:
        """A sibling does not hold the label with that epoch any more."""
        self._ports.gone(node, label, epoch)

    def whole(self, node: str, labels: set[str]) -> None:
        """A sibling holds raw tunnels of these labels and no others."""
        self._ports.whole(node, labels)

    async def close(self) -> None:
        """Stop what is being checked."""
        await self._tasks.close()

    async def _take_up(self, sender: Sender, tunnel: TunnelInfo, claim: Claim) -> None:
        await self._verification.settle(claim.label)
        port = tunnel.unencrypted_port
        if port and self._owners.owner(port) is None:
            if port in self._waiting or len(self._waiting) < _MOST_WAITING:
                self._waiting[port] = (sender, tunnel, claim)
            return
        if tunnel.unencrypted_port and not await self._may_have(sender, tunnel):
            return
        route = self._routes.placed(claim.label)
        if route is not None and route.claim.encoded == claim.encoded:
            self._ports.bound(SiblingPort(claim.label, claim.node, claim.epoch, tunnel.unencrypted_port))

    def _hear_again(self) -> None:
        """Owners of more ports may be known now."""
        waiting, self._waiting = self._waiting, {}
        for sender, tunnel, claim in waiting.values():
            self.heard(sender, tunnel, claim)

    async def _may_have(self, sender: Sender, tunnel: TunnelInfo) -> bool:
        """Whether the newest ticket of the port's owner is for this label."""
        if self._checks.wait(sender, 1):
            return False
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
