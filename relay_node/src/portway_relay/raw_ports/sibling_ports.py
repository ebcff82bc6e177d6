"""Raw ports of tunnels that siblings (other nodes of this region) hold, as far as their claims are believed.

A visitor may come to any node of the region, so this one listens on those ports too, and forwards by label. Here: the
memory of claims, when a claim is outdated, and conflicts between two siblings. Not here: sockets (sockets.py), this
node's own ports (account.py).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import short_label
from portway_runtime.clocks import Monotonic

from portway_relay.raw_ports.account import BELIEVED_SHARE

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """A sibling's word that its tunnel has this port."""

    label: str = field(repr=False)
    node: str
    epoch: int
    port: int


class SiblingClaims:
    """A memory of claims: one for each port, one for each label."""

    def __init__(self, *, rest: float, clock: Monotonic) -> None:
        """rest: seconds that a released port rests."""
        # A sibling that was not heard from for longer may have released a port, and let it rest, by then.
        self._believed_for = rest * BELIEVED_SHARE
        self._clock = clock
        self._by_port: dict[int, Claim] = {}
        self._by_label: dict[str, Claim] = {}
        self._disputed: set[int] = set()
        self._lost: dict[str, float] = {}  # siblings whose control lane is down, and since when

    def __len__(self) -> int:
        return len(self._by_port)

    def label(self, port: int) -> str | None:
        """The label of the sibling's tunnel that has this port."""
        claim = self._by_port.get(port)
        return None if claim is None else claim.label

    def believed(self, port: int) -> bool:
        """Whether the sibling with this port was heard from lately, and no other one claims the port."""
        claim = self._by_port.get(port)
        if claim is None or port in self._disputed:
            return False
        lost = self._lost.get(claim.node)
        return lost is None or self._clock() - lost < self._believed_for

    def of_label(self, label: str) -> Claim | None:
        """The claim of this label's tunnel."""
        return self._by_label.get(label)

    def of_port(self, port: int) -> Claim | None:
        """The claim to this port."""
        return self._by_port.get(port)

    def of_node(self, node: str) -> Iterator[Claim]:
        """The claims of this sibling; they may be removed meanwhile."""
        return (claim for claim in list(self._by_port.values()) if claim.node == node)

    def add(self, claim: Claim) -> None:
        """Remember a claim. Another one to the port or of the label must be removed before."""
        self._by_port[claim.port] = self._by_label[claim.label] = claim

    def remove(self, claim: Claim) -> None:
        """Forget a claim, and any dispute about its port."""
        del self._by_port[claim.port]
        del self._by_label[claim.label]
        self._disputed.discard(claim.port)

    def dispute(self, port: int) -> None:
        """Note that two siblings claim this port; the first claim stays."""
        self._disputed.add(port)

    def is_lost(self, node: str) -> bool:
        """Whether this sibling has claims, and its control lane is down."""
        return node in self._lost

    def heard_from(self, node: str) -> None:
        """Note that its control lane is up."""
        self._lost.pop(node, None)

    def lost(self, node: str) -> None:
        """Note that its control lane is down. Its ports are served as before: its clients take them along elsewhere."""
        if any(claim.node == node for claim in self._by_port.values()):
            self._lost[node] = self._clock()


class Account(Protocol):
    """This node's own ports."""

    def holder(self, port: int) -> str | None: ...
    def rest(self, port: int, label: str) -> None: ...


class Sockets(Protocol):
    """The sockets that listen on raw ports."""

    def serve(self, port: int, label: str) -> None: ...
    def stop_serving(self, port: int) -> None: ...


class SiblingPorts:
    """Turns what siblings announce into claims, and claims into listening sockets."""

    def __init__(self, region: str, ports: range, claims: SiblingClaims, account: Account, sockets: Sockets) -> None:
        """ports: the region's; a claim to any other port is ignored."""
        self._region = region
        self._ports = ports
        self._claims = claims
        self._account = account
        self._sockets = sockets

    def bound(self, node: str, tunnel: TunnelInfo) -> None:
        """A sibling holds this tunnel; its proof fits, and no higher epoch is known."""
        claims = self._claims
        known = claims.of_label(tunnel.label)
        if known is not None and known.epoch > tunnel.epoch:
            return
        claim = Claim(tunnel.label, node, tunnel.epoch, tunnel.unencrypted_port)
        if known is not None:
            if known.port == claim.port:
                claims.add(claim)
                return
            self._drop(known)
        if tunnel.region != self._region or claim.port not in self._ports:
            return
        holder = self._account.holder(claim.port)
        if holder not in (None, claim.label):
            logger.warning("sibling claims a raw port of this node", extra={"peer": node, "port": claim.port})
            return
        current = claims.of_port(claim.port)
        if current is not None and current.node != node and not claims.is_lost(current.node):
            self._dispute(current, claim)
            return
        if current is not None:
            # The claim of the same node before, or of one that is lost.
            self._remove(current)
        claims.add(claim)
        self._sockets.serve(claim.port, claim.label)

    def gone(self, node: str, label: str, epoch: int) -> None:
        """A sibling does not hold the label with that epoch any more."""
        claim = self._claims.of_label(label)
        if claim is not None and claim.node == node and claim.epoch <= epoch:
            self._drop(claim)

    def whole(self, node: str, labels: set[str]) -> None:
        """A sibling holds raw tunnels of these labels and no others."""
        for claim in self._claims.of_node(node):
            if claim.label not in labels:
                self._drop(claim)

    def heard_from(self, node: str) -> None:
        """A sibling's control lane is up."""
        self._claims.heard_from(node)

    def lost(self, node: str) -> None:
        """A sibling's control lane is down."""
        self._claims.lost(node)

    def _dispute(self, current: Claim, claim: Claim) -> None:
        """Serve the port for neither of two siblings: visitors must not reach the wrong tunnel."""
        self._claims.dispute(claim.port)
        self._sockets.stop_serving(claim.port)
        logger.error(
            "raw port not served: two nodes of the region claim it",
            extra={"port": claim.port, "nodes": f"{current.node}, {claim.node}", "label": short_label(claim.label)},
        )

    def _drop(self, claim: Claim) -> None:
        self._remove(claim)
        self._account.rest(claim.port, claim.label)

    def _remove(self, claim: Claim) -> None:
        self._claims.remove(claim)
        self._sockets.stop_serving(claim.port)
