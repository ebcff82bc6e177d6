"""Who owns a label on this node: the holder with the highest epoch, which its proof shows.

Here: claiming, suspending, resuming, releasing. Each is idempotent and checks identity, so that a late goodbye of an
old holder never removes the new one. Not here: the store of tunnels (tunnel.py), what a session may ask for.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_INVALID,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_PORTS,
    FAILURE_CODE_PROOF,
    Failure,
)
from portway_proto.wire.labels import Epoch, Label, is_label, short_label, verify_proof
from portway_runtime.clocks import WallClock
from portway_runtime.errors import ListenError

from portway_relay.errors import PortsUsedUp, Refused, quota_full
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.raw_ports.token_rests import TokenRests
from portway_relay.routing.proofs import Proofs, is_proof
from portway_relay.routing.tunnel import HeldTunnels, Holder, Tunnel

logger = logging.getLogger(__name__)


class OtherHolders(Protocol):
    """The routes: what is known of other nodes that hold, or held, a label."""

    def epoch(self, label: str) -> int:
        """The highest epoch that any node, this one included, is known to have or to have had; 0 without one."""
        ...

    def subscribe(self, superseded: Callable[[str, int], None]) -> None:
        """Call `superseded(label, epoch)` each time another node is found to hold a label with a higher epoch."""
        ...


class Announcer(Protocol):
    """Announces each change of the table to a registry and to other nodes."""

    def bound(self, tunnel: Tunnel) -> None:
        """It is bound here and live."""
        ...

    def withdrawn(self, label: str, epoch: int) -> None:
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
        proofs: Proofs,
        port_rests: TokenRests,
        max_visits: int,
        clock: WallClock,
    ) -> None:
        """
        routes: the table subscribes to it, and evicts a tunnel that another node holds with a higher epoch.
        max_visits: of one tunnel at a time.
        """
        self._tunnels = tunnels
        self._routes = routes
        self._proofs = proofs
        self._raw_ports = raw_ports
        self._port_rests = port_rests
        self._announcer = announcer
        self._max_visits = max_visits
        self._clock = clock
        routes.subscribe(self.evict_superseded)

    def claim(
        self,
        holder: Holder,
        label: str,
        epoch: int,
        proof: bytes,
        *,
        h2_enabled: bool,
        unencrypted: bool,
        wanted_port: int | None,
    ) -> Tunnel:
        """Bind a label, taking it from a holder with a lower epoch. Raises Refused; then nothing has changed.

        The same binding once more from the same holder returns the tunnel it has: the first answer was lost.
        """
        if not is_label(label):
            raise Refused(FAILURE_CODE_INVALID, "this is not a label: the client is not Portway's, or is broken")
        current = self._tunnels.get(label)
        if current is not None and current.holder is holder and (current.epoch, current.proof) == (epoch, proof):
            return current
        wait = self._proofs.wait("token", holder.token_id, epoch) if is_proof(label, epoch, proof) else 0.0
        if wait:
            raise Refused(
                FAILURE_CODE_OVERLOADED,
                "this token's tunnels come back too fast: try again in a moment",
                retry_after=wait,
            )
        if not verify_proof(label, epoch, proof):
            raise Refused(FAILURE_CODE_PROOF, "the proof does not fit the label and epoch: open a new tunnel")
        highest = max(current.epoch if current is not None else 0, self._routes.epoch(label))
        if epoch <= highest:
            raise _epoch_taken(highest)
        self._demand_quota(holder, label)
        tunnel = Tunnel(
            Label(label),
            Epoch(epoch),
            proof,
            holder,
            h2_enabled=h2_enabled,
            max_visits=self._max_visits,
            opened_at_ms=int(self._clock() * 1000),
        )
        if unencrypted:
            self._give_port(tunnel, current, wanted_port)
        if current is not None:
            self._displace(current, holder)
        self._tunnels.add(tunnel)
        self._announcer.bound(tunnel)
        return tunnel

    def suspend(self, tunnel: Tunnel) -> None:
        """Its client is away: route no visitors to it, and keep its port and its epoch."""
        if self._tunnels.get(tunnel.label) is tunnel and tunnel.live:
            self._tunnels.set_live(tunnel, False)
            if tunnel.raw is not None:
                tunnel.raw.pause()
            self._announcer.withdrawn(tunnel.label, tunnel.epoch)

    def resume(self, tunnel: Tunnel) -> None:
        """Its client is back: route visitors to it again. Raises Refused, having released it, when that cannot be."""
        if self._tunnels.get(tunnel.label) is not tunnel or tunnel.live:
            return
        try:
            highest = self._routes.epoch(tunnel.label)
            if tunnel.epoch < highest:
                raise _epoch_taken(highest)
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
            self._announcer.withdrawn(tunnel.label, tunnel.epoch)
        if closed:
            self._announcer.closed(tunnel)

    def evict(self, label: str, epoch: int, failure: Failure) -> None:
        """Take the label from its holder unless the holder's epoch is higher than `epoch`."""
        tunnel = self._tunnels.get(label)
        if tunnel is None or tunnel.epoch > epoch:
            return
        logger.info("tunnel evicted", extra={"label": short_label(label), "epoch": tunnel.epoch})
        self.release(tunnel)
        tunnel.holder.tunnel_taken(tunnel, failure)

    def evict_superseded(self, label: str, epoch: int) -> None:
        """`evict` because another node holds the label with an epoch higher than `epoch`."""
        self.evict(label, epoch, Failure(code=FAILURE_CODE_EPOCH, message="the tunnel was bound again at another node"))

    def _demand_quota(self, holder: Holder, label: str) -> None:
        """Raise Refused when the holder's token, or its tenant, has as many tunnels at this node as it may have."""
        live = self._tunnels.live(label)
        replaced = None if live is None else live.holder
        held = self._tunnels.live_of_token(holder.token_id)
        if replaced is not None and replaced.token_id == holder.token_id:
            held -= 1
        if holder.max_tunnels and held >= holder.max_tunnels:
            raise quota_full("this token", holder.max_tunnels)
        held = self._tunnels.live_of_tenant(holder.tenant)
        if replaced is not None and replaced.tenant == holder.tenant:
            held -= 1
        if holder.tenant_max_tunnels and held >= holder.tenant_max_tunnels:
            raise quota_full(f"tenant {holder.tenant}", holder.tenant_max_tunnels)

    def _give_port(self, tunnel: Tunnel, current: Tunnel | None, wanted: int | None) -> None:
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
            tunnel.raw = self._raw_ports.take(tunnel.label, wanted)
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

    def _displace(self, current: Tunnel, holder: Holder) -> None:
        """Remove the tunnel that a higher epoch replaces; its visits in progress may finish."""
        self._tunnels.remove(current)
        self._release_port(current)
        if current.holder is not holder:
            logger.info("tunnel taken over", extra={"label": short_label(current.label), "epoch": current.epoch})
            failure = Failure(code=FAILURE_CODE_EPOCH, message="the tunnel was bound again elsewhere")
            current.holder.tunnel_taken(current, failure)


def _epoch_taken(epoch: int) -> Refused:
    return Refused(
        FAILURE_CODE_EPOCH, f"this tunnel is bound with epoch {epoch} already: bind with a higher one to take it over"
    )
