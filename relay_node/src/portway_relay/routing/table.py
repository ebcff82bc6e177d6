"""Who owns a label on this node: the holder whose claim has the highest rank.

Here: binding, suspending, resuming, releasing. Each is idempotent and checks identity, so that a late goodbye of an old
holder never removes the new one. Not here: the store of tunnels (tunnel.py), the form and the signatures of claims
(sessions/), what a session may ask for.
"""

import logging
from collections.abc import Callable
from typing import Final, Protocol

from portway_proto.v1.lane_pb2 import FAILURE_CODE_EPOCH, FAILURE_CODE_PORTS, Failure
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_proto.wire.labels import short_label
from portway_proto.wire.statements import Claim
from portway_runtime.clocks import WallClock
from portway_runtime.errors import ListenError

from portway_relay.errors import PortsUsedUp, Refused, quota_full
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.raw_ports.tickets import Ticket
from portway_relay.raw_ports.token_rests import TokenRests
from portway_relay.routing.tunnel import HeldTunnels, Holder, Tunnel

logger = logging.getLogger(__name__)

SUPERSEDED: Final = Failure(code=FAILURE_CODE_EPOCH, message="the tunnel was bound again elsewhere")


class OtherHolders(Protocol):
    """The routes: what is known of claims to a label, those of other nodes and past ones."""

    def highest(self, label: str) -> Claim | None:
        """Of all genuine claims that are known the one of highest rank."""
        ...

    def subscribe(self, superseded: Callable[[Claim], None]) -> None:
        """Call `superseded` with each claim of higher rank that places a label of this node elsewhere."""
        ...


class Announcer(Protocol):
    """Announces each change of the table to a registry and to other nodes."""

    def bound(self, tunnel: Tunnel) -> None:
        """It is bound here and live."""
        ...

    def withdrawn(self, tunnel: Tunnel) -> None:
        """It is not served here now."""
        ...

    def closed(self, tunnel: Tunnel) -> None:
        """Its client has closed it: it is served nowhere."""
        ...


class TunnelTable:
    """The rules by which labels are bound at this node; the tunnels themselves are in `tunnels`."""

    def __init__(
        self,
        tunnels: HeldTunnels,
        routes: OtherHolders,
        raw_ports: RawPorts,
        announcer: Announcer,
        *,
        port_rests: TokenRests,
        max_visits: int,
        clock: WallClock,
    ) -> None:
        """
        routes: the table subscribes to it, and evicts a tunnel that a claim of higher rank places elsewhere.
        max_visits: of one tunnel at a time.
        """
        self._tunnels = tunnels
        self._routes = routes
        self._raw_ports = raw_ports
        self._port_rests = port_rests
        self._announcer = announcer
        self._max_visits = max_visits
        self._clock = clock
        routes.subscribe(self.evict_superseded)

    def held(self, holder: Holder, claim: Claim) -> Tunnel | None:
        """The tunnel that this holder has by this very claim: it asks again, for the first answer was lost."""
        current = self._tunnels.get(claim.label)
        if current is None or current.holder is not holder or current.claim.encoded != claim.encoded:
            return None
        return current

    def bind(
        self, holder: Holder, claim: Claim, options: TunnelOptions, ticket: Ticket | None, host: str = ""
    ) -> Tunnel:
        """Bind a label by a claim that was checked, taking it from a holder of lower rank. Raises Refused; then nothing
        has changed.

        options: those in the claim.
        ticket: asks for the raw port that it names; it was checked, too.
        host: of the tunnel's URL, as the client says.
        """
        self.demand_rank(claim)
        current = self._tunnels.get(claim.label)
        self._demand_quota(holder, claim.label)
        opened_at_ms = int(self._clock() * 1000)
        tunnel = Tunnel(claim, holder, options, max_visits=self._max_visits, opened_at_ms=opened_at_ms, host=host)
        if options.unencrypted:
            self._give_port(tunnel, current, ticket)
        if current is not None:
            self._displace(current, tunnel)
        self._tunnels.add(tunnel)
        self._announcer.bound(tunnel)
        return tunnel

    def demand_rank(self, claim: Claim) -> None:
        """Raise Refused unless its rank is above all that are known for its label, whoever has or had them."""
        current = self._tunnels.get(claim.label)
        if current is not None and current.claim.key != claim.key:
            raise _outranked(current.claim)
        highest = self._routes.highest(claim.label)
        if current is not None and (highest is None or highest.rank < current.claim.rank):
            highest = current.claim
        if highest is not None and claim.rank <= highest.rank:
            raise _outranked(highest)

    def suspend(self, tunnel: Tunnel) -> None:
        """Its client is away: route no visitors to it, and keep its port and its epoch."""
        if self._tunnels.get(tunnel.label) is tunnel and tunnel.live:
            self._tunnels.set_live(tunnel, False)
            if tunnel.raw is not None:
                tunnel.raw.pause()
            self._announcer.withdrawn(tunnel)

    def resume(self, tunnel: Tunnel) -> None:
        """Its client is back: route visitors to it again. Raises Refused, having released it, when that cannot be."""
        if self._tunnels.get(tunnel.label) is not tunnel or tunnel.live:
            return
        try:
            highest = self._routes.highest(tunnel.label)
            if highest is not None and tunnel.claim.rank < highest.rank:
                raise _outranked(highest)
            self._demand_quota(tunnel.holder, tunnel.label)
            if tunnel.raw is not None:
                tunnel.raw.listen()
        except Refused:
            self.release(tunnel)
            raise
        except ListenError as error:
            self.release(tunnel)
            raise Refused(FAILURE_CODE_PORTS, "the tunnel's raw TCP port was lost: open it again") from error
        self._tunnels.set_live(tunnel, True)
        self._announcer.bound(tunnel)

    def release(self, tunnel: Tunnel, *, closed: bool = False) -> None:
        """Unbind it here; visits in progress go on. `closed`: its client has closed it and binds it nowhere else."""
        if self._tunnels.get(tunnel.label) is not tunnel:
            return
        was_live = tunnel.live
        self._tunnels.remove(tunnel)
        self._release_port(tunnel)
        if was_live:
            self._announcer.withdrawn(tunnel)
        if closed:
            self._announcer.closed(tunnel)

    def close_released(self, tunnel: Tunnel) -> None:
        """Its client has closed a tunnel that was released before. No effect while its label is bound here again."""
        if self._tunnels.get(tunnel.label) is None:
            self._announcer.closed(tunnel)

    def evict(self, label: str, epoch: int, failure: Failure, claim: bytes = b"") -> None:
        """Take the label from its holder unless the holder's epoch is higher than `epoch`. claim: what owns it now."""
        tunnel = self._tunnels.get(label)
        if tunnel is not None and tunnel.epoch <= epoch:
            self._evict(tunnel, failure, claim)

    def evict_superseded(self, claim: Claim) -> None:
        """Take the label from a holder of lower rank: this claim, which was checked, places it elsewhere."""
        tunnel = self._tunnels.get(claim.label)
        if tunnel is not None and tunnel.claim.rank < claim.rank:
            self._evict(tunnel, SUPERSEDED, claim.encoded)

    def _evict(self, tunnel: Tunnel, failure: Failure, claim: bytes) -> None:
        logger.info("tunnel evicted", extra={"label": short_label(tunnel.label), "epoch": tunnel.epoch})
        self.release(tunnel)
        tunnel.holder.tunnel_taken(tunnel, failure, claim)

    def _demand_quota(self, holder: Holder, label: str) -> None:
        """Raise Refused when the holder's token, or its tenant, has as many tunnels at this node as it may have."""
        live = self._tunnels.live(label)
        replaced = None if live is None else live.holder
        # The tenant's limit first: it is that of a token without one of its own, too.
        held = self._tunnels.live_of_tenant(holder.tenant)
        if replaced is not None and replaced.tenant == holder.tenant:
            held -= 1
        if holder.tenant_max_tunnels and held >= holder.tenant_max_tunnels:
            raise quota_full(f"tenant {holder.tenant}", holder.tenant_max_tunnels)
        held = self._tunnels.live_of_token(holder.token_id)
        if replaced is not None and replaced.token_id == holder.token_id:
            held -= 1
        if holder.max_tunnels and held >= holder.max_tunnels:
            raise quota_full("this token", holder.max_tunnels)

    def _give_port(self, tunnel: Tunnel, current: Tunnel | None, ticket: Ticket | None) -> None:
        """Give it the port that its label has here, or another free one. Raises Refused."""
        if current is not None and current.raw is not None:
            raw = current.raw
            try:
                raw.listen()
            except ListenError:
                pass
            else:
                current.raw = None
                tunnel.raw = raw
                return
        holder = tunnel.holder
        self._port_rests.demand_room(holder.token_id, holder.max_tunnels, tunnel.label)
        try:
            tunnel.raw = self._raw_ports.take(tunnel.label, ticket)
        except PortsUsedUp as error:
            raise Refused(FAILURE_CODE_PORTS, str(error)) from error
        except ListenError as error:
            logger.error("raw port cannot be opened: %s", error)
            raise Refused(
                FAILURE_CODE_PORTS, "this node can open no raw TCP port now: try again, or ask its operator"
            ) from error
        self._port_rests.given(holder.token_id, tunnel.label)

    def _release_port(self, tunnel: Tunnel) -> None:
        if tunnel.raw is not None:
            tunnel.raw.release()
            self._port_rests.released(tunnel.holder.token_id, tunnel.label)

    def _displace(self, current: Tunnel, successor: Tunnel) -> None:
        """Remove the tunnel that a claim of higher rank replaces; its visits in progress may finish."""
        self._tunnels.remove(current)
        self._release_port(current)
        if current.holder is not successor.holder:
            logger.info("tunnel taken over", extra={"label": short_label(current.label), "epoch": current.epoch})
            current.holder.tunnel_taken(current, SUPERSEDED, successor.claim.encoded)


def _outranked(owner: Claim) -> Refused:
    return Refused(
        FAILURE_CODE_EPOCH,
        f"this tunnel is bound with epoch {owner.epoch} already: bind with a higher one to take it over",
        claim=owner.encoded,
    )
