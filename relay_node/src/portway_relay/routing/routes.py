"""Routes: which other node holds a label, as other nodes, registries and clients have said, as far as it is believed.

Here: a bounded memory of routes, of released labels and of labels that were not found; the highest epoch with a valid
proof wins. Not here: asking other nodes or a registry (lookup.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from portway_carrier.contract import Pool, Visit
from portway_proto.v1.types_pb2 import TunnelInfo, TunnelOptions
from portway_proto.wire.labels import verify_proof
from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic

from portway_relay.routing.proofs import Proofs, is_proof
from portway_relay.routing.tunnel import Tunnel

# Labels in each of the larger maps: about 60 MB, more names than a node sees in an hour. Evicted ones are asked for
# again.
_MAX_LABELS: Final = 100_000
# Seconds that a label counts as unknown after a lookup found no holder: a name that is asked for in a loop costs one
# question a second, and the delay of a tunnel that opens just then goes unnoticed. An announcement ends it at once.
_UNKNOWN_TIME: Final = 1.0
_MAX_UNKNOWN: Final = 10_000
# Seconds that a released label's client is waited for. One that lost its node has its tunnels elsewhere within seconds,
# and sessions are kept for this long. Later visitors get the answer for an unknown name.
_RETURN_TIME: Final = 60.0
_CLOSED: Final = 0.0


class Belief(Enum):
    """How far a route is believed, by its source."""

    HINTED = "hinted"  # by the client that left this node; any node's own word outweighs it
    TOLD = "told"  # by the node that holds the label
    CONFIRMED = "confirmed"  # by a registry, whose store holds one node for each label
    DISPUTED = "disputed"  # two nodes claim this epoch: no visitor is routed until a registry decides
    GONE = "gone"  # the node has released it; lower epochs stay refused
    DENIED = "denied"  # the client named this node, which does not have it; the real holder is not known yet


_ROUTED: Final = frozenset({Belief.HINTED, Belief.TOLD, Belief.CONFIRMED})
_OVER: Final = frozenset({Belief.GONE, Belief.DENIED})
_BY_CLIENT: Final = frozenset({Belief.HINTED, Belief.DENIED})


@dataclass(slots=True, eq=False)
class Route:
    """A tunnel whose home is another node, with the highest proved epoch; a Destination."""

    label: str = field(repr=False)
    epoch: int
    proof: bytes = field(repr=False)
    node: str
    h2_enabled: bool
    last_pool: Pool = field(repr=False)
    find_pool: Callable[[str], Pool | None] = field(repr=False)
    belief: Belief = Belief.TOLD
    asked: bool = False  # a registry, or the nodes of the label's region, have been asked since it was learned
    visits: set[Visit] = field(default_factory=set, repr=False)

    @property
    def pool(self) -> Pool:
        """The lanes to its node; those of a node that is no longer known refuse visitors."""
        self.last_pool = self.find_pool(self.node) or self.last_pool
        return self.last_pool

    @property
    def full(self) -> bool:
        """False: its home node counts its visits."""
        return False


class Routes:
    """Routes by label; the least recently used are evicted first."""

    def __init__(
        self,
        node: str,
        pool_of: Callable[[str], Pool | None],
        held_epoch: Callable[[str], int],
        proofs: Proofs,
        clock: Monotonic,
    ) -> None:
        """
        node: the name of this node.
        pool_of: the lanes to a node by its name; None for an unknown node.
        held_epoch: the epoch of this node's own binding of a label; 0 without one.
        """
        self._node = node
        self._pool_of = pool_of
        self._held_epoch = held_epoch
        self._proofs = proofs
        self._clock = clock
        self._superseded: Callable[[str, int], None] | None = None
        self._routes: BoundedMap[str, Route] = BoundedMap(_MAX_LABELS)
        self._unknown_until: BoundedMap[str, float] = BoundedMap(_MAX_UNKNOWN)
        self._own_epochs: BoundedMap[str, int] = BoundedMap(_MAX_LABELS)  # of this node's bindings, past ones too
        # The last holder of a label, by node and epoch, as a registry has it.
        self._last_holders: BoundedMap[str, tuple[str, int]] = BoundedMap(_MAX_LABELS)
        # The released epoch, and until when its client is waited for; _CLOSED when the client closed the tunnel.
        self._released: BoundedMap[str, tuple[int, float]] = BoundedMap(_MAX_LABELS)

    def __len__(self) -> int:
        return len(self._routes)

    def subscribe(self, superseded: Callable[[str, int], None]) -> None:
        """Call `superseded(label, epoch)` each time another node is found to hold a label with a higher epoch.

        Bindings of this node with that epoch or a lower one are then over. There is one subscriber, the table.
        """
        self._superseded = superseded

    def get(self, label: str) -> Route | None:
        """The route, when it is believed and its node is known."""
        route = self._routes.get(label)
        if route is None or route.belief not in _ROUTED or self._pool_of(route.node) is None:
            return None
        self._routes.move_to_end(label)
        return route

    def last(self, label: str) -> tuple[str, int] | None:
        """Node and epoch of the last route, whether it is still believed or not."""
        route = self._routes.get(label)
        return None if route is None else (route.node, route.epoch)

    def is_unknown(self, label: str) -> bool:
        """Whether every node and a registry were asked within the last second, and none had it."""
        until = self._unknown_until.get(label)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self._unknown_until[label]
        return False

    def is_moving(self, label: str) -> bool:
        """Whether it was bound until a moment ago, so that its client may be binding it at another node."""
        route = self._routes.get(label)
        if route is not None and route.belief not in _OVER:
            return True
        _, until = self._released.get(label, (0, _CLOSED))
        return self._clock() < until

    def closed_epoch(self, label: str) -> int:
        """The epoch with which its client closed it; 0 when it did not, or has bound it again."""
        epoch, until = self._released.get(label, (0, _CLOSED))
        return epoch if until == _CLOSED else 0

    def epoch(self, label: str) -> int:
        """The highest epoch that any node, this one included, is known to have or to have had; 0 without one."""
        route = self._routes.get(label)
        return max(self._own_epochs.get(label, 0), 0 if route is None else route.epoch)

    def learn(self, tunnel: TunnelInfo, *, from_registry: bool = False) -> Route | None:
        """Believe that the tunnel is where `tunnel` says, if its proof fits and nothing newer is known.

        Returns the route; None when it is not believed. Every node that a label passes sees its proof, so the second
        sender of an epoch is not believed: this node's own binding stays, and a registry decides between two others.
        An epoch below the highest one is never believed again.
        """
        label = tunnel.label
        pool = self._pool_of(tunnel.node)
        if tunnel.node == self._node or pool is None:
            return None
        if tunnel.epoch <= max(self._held_epoch(label), self._own_epochs.get(label, 0)):
            return None
        if self._contradicts_last_holder(label, tunnel.node, tunnel.epoch):
            return None
        known = self._routes.get(label)
        if known is not None and known.epoch >= tunnel.epoch:
            return self._learn_again(known, tunnel, pool, from_registry=from_registry)
        if not self._proves_itself(tunnel, "node", tunnel.node):
            return None
        return self._believe(tunnel, pool, Belief.CONFIRMED if from_registry else Belief.TOLD)

    def client_moved(self, tunnel: Tunnel, node: str, epoch: int, proof: bytes) -> None:
        """Believe the client of a tunnel that this node holds, or held, that it has bound it at `node`.

        The proof shows the epoch and does not show the node. So visitors are sent there until a node or a registry
        names this epoch or a later one, and the binding here ends when its client leaves, not before.
        """
        label, pool = tunnel.label, self._pool_of(node)
        if node == self._node or pool is None or epoch <= max(tunnel.epoch, self.epoch(label)):
            return
        options = TunnelOptions(h2_enabled=tunnel.h2_enabled)
        there = TunnelInfo(label=label, node=node, epoch=epoch, proof=proof, options=options)
        if self._contradicts_last_holder(label, node, epoch):
            return
        if self._proves_itself(there, "token", tunnel.holder.token_id):
            self._believe(there, pool, Belief.HINTED)

    def learn_last(self, label: str, node: str, epoch: int) -> None:
        """Note a registry's word that no node holds the label now, and that `node` was the last to, with `epoch`.

        That node may be ahead of the registry and hold it again; any other node needs a higher epoch.
        """
        self._last_holders[label] = (node, epoch)
        route = self._routes.get(label)
        if (
            route is not None
            and route.belief in _ROUTED
            and self._contradicts_last_holder(label, route.node, route.epoch)
        ):
            _end(route)
            self.mark_released(label, epoch, closed=False)

    def forget(self, label: str, node: str, epoch: int, *, closed: bool = False) -> None:
        """Believe `node` that it does not hold the label with that epoch; `closed` as in mark_released."""
        route = self._routes.get(label)
        if route is None or route.node != node or route.epoch > epoch or route.belief is Belief.DISPUTED:
            return
        if closed or route.belief in _ROUTED:
            self.mark_released(label, epoch, closed=closed)
        if closed:
            route.belief = Belief.GONE
        else:
            _end(route)

    def mark_released(self, label: str, epoch: int, *, closed: bool) -> None:
        """Note that the holder with that epoch has released the label.

        closed: its client closed the tunnel, so the name is as good as unknown. Otherwise the client may be on its way
        to this node or another one.
        """
        before, until = self._released.get(label, (0, _CLOSED))
        if before > epoch or (before == epoch and until == _CLOSED):
            return
        self._released[label] = (epoch, _CLOSED if closed else self._clock() + _RETURN_TIME)

    def bound_here(self, label: str, epoch: int) -> None:
        """Note that this node has bound it, with a higher epoch than any that was known.

        The epoch is remembered beyond the binding's end, so that no lower one is believed then.
        """
        self._routes.pop(label, None)
        self._unknown_until.pop(label, None)
        self._released.pop(label, None)
        self._own_epochs[label] = epoch

    def mark_unknown(self, label: str) -> None:
        """Note that a lookup found no holder."""
        self._unknown_until[label] = self._clock() + _UNKNOWN_TIME

    def _contradicts_last_holder(self, label: str, node: str, epoch: int) -> bool:
        """Whether a registry has a last holder with a higher epoch, or with this epoch and another name."""
        last_node, last_epoch = self._last_holders.get(label, (node, 0))
        return epoch < last_epoch or (epoch == last_epoch and node != last_node)

    def _learn_again(self, known: Route, tunnel: TunnelInfo, pool: Pool, *, from_registry: bool) -> Route | None:
        """`learn` for a label that has a route with this epoch or a higher one."""
        if known.epoch > tunnel.epoch or known.proof != tunnel.proof:
            return None
        if known.node == tunnel.node and tunnel.epoch == self.closed_epoch(tunnel.label):
            return None  # the sender has not heard yet that the client closed it
        if known.belief in _BY_CLIENT:
            return self._believe(tunnel, pool, Belief.CONFIRMED if from_registry else Belief.TOLD)
        if from_registry:
            if known.node == tunnel.node and known.belief in _ROUTED:
                known.belief = Belief.CONFIRMED
                return known
            return self._believe(tunnel, pool, Belief.CONFIRMED)
        if known.node != tunnel.node:
            if known.belief is not Belief.CONFIRMED:
                known.belief = Belief.DISPUTED
            return None
        if known.belief is Belief.DISPUTED:
            return None
        return known if known.belief in _ROUTED else self._believe(tunnel, pool, Belief.TOLD)

    def _proves_itself(self, tunnel: TunnelInfo, kind: str, name: str) -> bool:
        """Whether the proof fits; checking it is charged to the sender (Proofs.wait)."""
        if not is_proof(tunnel.label, tunnel.epoch, tunnel.proof):
            return False
        if self._proofs.wait(kind, name, tunnel.epoch):
            return False  # not queued: a proof is free to make up, and a label that is needed is looked up anyway
        return verify_proof(tunnel.label, tunnel.epoch, tunnel.proof)

    def _believe(self, tunnel: TunnelInfo, pool: Pool, belief: Belief) -> Route:
        label = tunnel.label
        h2_enabled = tunnel.options.h2_enabled
        route = Route(label, tunnel.epoch, tunnel.proof, tunnel.node, h2_enabled, pool, self._pool_of, belief)
        self._routes[label] = route
        self._unknown_until.pop(label, None)
        self._released.pop(label, None)
        if belief is not Belief.HINTED and self._superseded is not None:
            self._superseded(label, tunnel.epoch - 1)
        return route


def _end(route: Route) -> None:
    """The route's node does not hold the label any more, or never did."""
    route.belief = Belief.DENIED if route.belief in _BY_CLIENT else Belief.GONE
