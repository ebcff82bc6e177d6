"""The raw ports of the region that tunnels of other nodes have: whose they are, as far as it is believed.

A visitor may come to any node of the region, so this one listens too, and forwards by label. Here: what siblings say,
when it is outdated, what two of them cannot both have. Not here: sockets (tunnels/raw.py), this node's own ports
(tunnels/ports.py), where a label is (routes.py).
"""

import logging
from dataclasses import dataclass, field
from typing import Protocol

from portway_proto.v1.types_pb2 import TunnelInfo
from portway_runtime.clocks import Monotonic

from portway_relay.raw_ports.account import BELIEVED
from portway_relay.routing.tunnel import short

logger = logging.getLogger(__name__)


class Account(Protocol):
    """What this node knows of its own ports."""

    def holder(self, port: int) -> str | None: ...
    def rest(self, port: int, label: str) -> None: ...


class Sockets(Protocol):
    """What listens."""

    def serve(self, port: int, label: str) -> None: ...
    def stop_serving(self, port: int) -> None: ...


@dataclass(frozen=True, slots=True)
class _Claim:
    label: str = field(repr=False)
    node: str
    epoch: int
    port: int


class SiblingPorts:
    """One claim a port, one port a label."""

    def __init__(
        self, region: str, ports: range, account: Account, sockets: Sockets, *, rest: float, clock: Monotonic
    ) -> None:
        """`ports` are the region's: nothing else is listened on, whatever a sibling says."""
        self._region = region
        self._ports = ports
        self._account = account
        self._sockets = sockets
        # A node that was not heard from for longer may have let a port go, and rested it, by then.
        self._believed_for = rest * BELIEVED
        self._clock = clock
        self._by_port: dict[int, _Claim] = {}
        self._by_label: dict[str, _Claim] = {}
        self._disputed: set[int] = set()
        self._lost: dict[str, float] = {}  # nodes that are not heard from, since when

    def __len__(self) -> int:
        return len(self._by_port)

    def label(self, port: int) -> str | None:
        """Whose the port is, of the tunnels of other nodes."""
        claim = self._by_port.get(port)
        return None if claim is None else claim.label

    def believed(self, port: int) -> bool:
        """Whether the node that has the port was heard from a moment ago, and no other one says the same of itself."""
        claim = self._by_port.get(port)
        if claim is None or port in self._disputed:
            return False
        lost = self._lost.get(claim.node)
        return lost is None or self._clock() - lost < self._believed_for

    def bound(self, node: str, tunnel: TunnelInfo) -> None:
        """A sibling holds this tunnel; its proof fits, and no higher epoch is known."""
        known = self._by_label.get(tunnel.label)
        if known is not None and known.epoch > tunnel.epoch:
            return
        claim = _Claim(tunnel.label, node, tunnel.epoch, tunnel.unencrypted_port)
        if known is not None:
            if known.port == claim.port:
                self._by_port[claim.port] = self._by_label[claim.label] = claim
                return
            self._drop(known)
        if tunnel.region != self._region or claim.port not in self._ports:
            return
        holder = self._account.holder(claim.port)
        if holder not in (None, claim.label):
            logger.warning("a sibling has a raw port of this node's", extra={"peer": node, "port": claim.port})
            return
        current = self._by_port.get(claim.port)
        if current is not None and current.node != node and current.node not in self._lost:
            self._dispute(current, claim)
            return
        if current is not None:
            # Its own node says better, or another one does of what a node had that is gone.
            self._forget(current)
        self._by_port[claim.port] = self._by_label[claim.label] = claim
        self._sockets.serve(claim.port, claim.label)

    def gone(self, node: str, label: str, epoch: int) -> None:
        """A sibling does not hold it with that epoch any more."""
        claim = self._by_label.get(label)
        if claim is not None and claim.node == node and claim.epoch <= epoch:
            self._drop(claim)

    def whole(self, node: str, labels: set[str]) -> None:
        """A sibling holds these and nothing else."""
        for claim in list(self._by_port.values()):
            if claim.node == node and claim.label not in labels:
                self._drop(claim)

    def heard_from(self, node: str) -> None:
        self._lost.pop(node, None)

    def lost(self, node: str) -> None:
        """Its ports are served as before: its tunnels' clients go elsewhere, and take them along."""
        if any(claim.node == node for claim in self._by_port.values()):
            self._lost[node] = self._clock()

    def _dispute(self, current: _Claim, claim: _Claim) -> None:
        """Two nodes that are both there say different things: nobody's visitors may end up at the other's."""
        self._disputed.add(claim.port)
        self._sockets.stop_serving(claim.port)
        logger.error(
            "a raw port is not served: two nodes of the region have it",
            extra={"port": claim.port, "nodes": f"{current.node}, {claim.node}", "label": short(claim.label)},
        )

    def _drop(self, claim: _Claim) -> None:
        self._forget(claim)
        self._account.rest(claim.port, claim.label)

    def _forget(self, claim: _Claim) -> None:
        del self._by_port[claim.port]
        del self._by_label[claim.label]
        self._disputed.discard(claim.port)
        self._sockets.stop_serving(claim.port)
