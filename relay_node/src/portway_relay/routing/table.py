"""Whose a label is on this node: the highest epoch's, proved by whoever binds (DESIGN §4).

Here: claiming, suspending, resuming, releasing, each idempotent and by identity, so that a late goodbye of an old
holder never removes the new one. Not here: what a session may ask for (sessions/), nor the store (registry_link/).
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_INVALID,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_PORTS,
    FAILURE_CODE_PROOF,
    FAILURE_CODE_QUOTA,
    Failure,
)
from portway_proto.wire.labels import Epoch, Label, is_label, verify_proof
from portway_runtime.clocks import WallClock
from portway_runtime.errors import ListenError

from portway_relay.errors import PortsUsedUp, Refused
from portway_relay.raw_ports.sockets import RawPorts
from portway_relay.routing.proofs import Proofs, is_proof
from portway_relay.routing.tunnel import Holder, Tunnel, short

logger = logging.getLogger(__name__)


class Announcer(Protocol):
    """Who is told of every change, to tell the registry and other nodes."""

    def bound(self, tunnel: Tunnel) -> None: ...

    def withdrawn(self, label: str, epoch: int) -> None:
        """It is not served here now."""
        ...

    def closed(self, tunnel: Tunnel) -> None:
        """Nor will it be anywhere, as far as its client has said."""
        ...


class TunnelTable:
    """The tunnels of this node by label."""

    def __init__(
        self,
        raw_ports: RawPorts,
        announcer: Announcer,
        *,
        known_epoch: Callable[[str], int],
        proofs: Proofs,
        max_visits: int,
        clock: WallClock,
    ) -> None:
        """`known_epoch` is the highest that any node is known to hold a label with, or to have held; 0 when none."""
        self._known_epoch = known_epoch
        self._proofs = proofs
        self._raw_ports = raw_ports
        self._announcer = announcer
        self._max_visits = max_visits
        self._clock = clock
        self._tunnels: dict[str, Tunnel] = {}
        self._live_of_token: Counter[str] = Counter()

    def __len__(self) -> int:
        """Live tunnels."""
        return self._live_of_token.total()

    def live(self, label: str) -> Tunnel | None:
        """The tunnel that visitors of `label` are routed to now."""
        tunnel = self._tunnels.get(label)
        return tunnel if tunnel is not None and tunnel.live else None

    def epoch(self, label: str) -> int:
        """Of the binding that this node has, its holder there or away; 0 without one."""
        tunnel = self._tunnels.get(label)
        return 0 if tunnel is None else tunnel.epoch

    def all_live(self) -> Iterator[Tunnel]:
        return (tunnel for tunnel in self._tunnels.values() if tunnel.live)

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

        The same binding once more from the same holder is the tunnel that it has: its answer was lost.
        """
        if not is_label(label):
            raise Refused(FAILURE_CODE_INVALID, "this is no label: the client is not one of Portway's, or is broken")
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
        highest = max(current.epoch if current is not None else 0, self._known_epoch(label))
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
        self._tunnels[label] = tunnel
        self._count(tunnel, 1)
        self._announcer.bound(tunnel)
        return tunnel

    def suspend(self, tunnel: Tunnel) -> None:
        """Its holder is away: visitors are not routed to it, its port and its epoch stay its own."""
        if self._tunnels.get(tunnel.label) is tunnel and tunnel.live:
            tunnel.live = False
            self._count(tunnel, -1)
            if tunnel.raw is not None:
                tunnel.raw.pause()
            self._announcer.withdrawn(tunnel.label, tunnel.epoch)

    def resume(self, tunnel: Tunnel) -> None:
        """Its holder is back. Raises Refused, the tunnel being released, when it cannot be had again."""
        if self._tunnels.get(tunnel.label) is not tunnel or tunnel.live:
            return
        try:
            highest = self._known_epoch(tunnel.label)
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
        tunnel.live = True
        self._count(tunnel, 1)
        self._announcer.bound(tunnel)

    def release(self, tunnel: Tunnel, *, closed: bool = False) -> None:
        """It is over here; visits in progress are not touched. `closed`: its client wants it no more, here or
        elsewhere."""
        if self._tunnels.get(tunnel.label) is not tunnel:
            return
        del self._tunnels[tunnel.label]
        if tunnel.raw is not None:
            tunnel.raw.release()
        if tunnel.live:
            tunnel.live = False
            self._count(tunnel, -1)
            self._announcer.withdrawn(tunnel.label, tunnel.epoch)
        if closed:
            self._announcer.closed(tunnel)

    def evict(self, label: str, epoch: int, failure: Failure) -> None:
        """Take it from its holder, unless that one has a higher epoch than `epoch`."""
        tunnel = self._tunnels.get(label)
        if tunnel is None or tunnel.epoch > epoch:
            return
        logger.info("tunnel evicted", extra={"label": short(label), "epoch": tunnel.epoch})
        self.release(tunnel)
        tunnel.holder.tunnel_taken(tunnel, failure)

    def _demand_quota(self, holder: Holder, label: str) -> None:
        replaced = self.live(label)
        held = self._live_of_token[holder.token_id]
        if replaced is not None and replaced.holder.token_id == holder.token_id:
            held -= 1
        if holder.max_tunnels and held >= holder.max_tunnels:
            raise Refused(
                FAILURE_CODE_QUOTA,
                f"this token may have {holder.max_tunnels} tunnels open at once and has them: close one, or ask an "
                "admin for a larger quota",
            )

    def _give_port(self, tunnel: Tunnel, current: Tunnel | None, wanted: int | None) -> None:
        """The label's own port if it has one here, or another that is free."""
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
        try:
            tunnel.raw = self._raw_ports.take(tunnel.label, wanted)
        except PortsUsedUp as error:
            raise Refused(FAILURE_CODE_PORTS, str(error)) from error
        except ListenError as error:
            logger.error("no raw port can be opened: %s", error)
            raise Refused(
                FAILURE_CODE_PORTS, "this node can open no raw TCP port now: try again, or ask its operator"
            ) from error

    def _displace(self, current: Tunnel, holder: Holder) -> None:
        """A higher epoch is there: no new visits for the old holder; those in progress may finish."""
        del self._tunnels[current.label]
        if current.raw is not None:
            current.raw.release()
        if current.live:
            current.live = False
            self._count(current, -1)
        if current.holder is not holder:
            logger.info("tunnel taken over", extra={"label": short(current.label), "epoch": current.epoch})
            failure = Failure(code=FAILURE_CODE_EPOCH, message="the tunnel was bound again elsewhere")
            current.holder.tunnel_taken(current, failure)

    def _count(self, tunnel: Tunnel, change: int) -> None:
        token_id = tunnel.holder.token_id
        self._live_of_token[token_id] += change
        if not self._live_of_token[token_id]:
            del self._live_of_token[token_id]


def _epoch_taken(epoch: int) -> Refused:
    return Refused(
        FAILURE_CODE_EPOCH, f"this tunnel is bound with epoch {epoch} already: bind with a higher one to take it over"
    )
