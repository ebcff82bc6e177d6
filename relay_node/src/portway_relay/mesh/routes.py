"""Where labels are that are not here: what other nodes and registries have said, as far as it is still believed.

Here: a bounded memory of routes and of names that nobody knows; the highest epoch that proves itself wins. Not here:
asking anybody (lookup.py).
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from portway_proto.carry.contract import Pool, Visit
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import is_label, verify_proof

from portway_relay.clock import Monotonic

# About 60 MB: more names than a node sees in an hour. What is forgotten is asked for again.
_REMEMBERED: Final = 100_000
# Long enough that a name which is asked for in a loop costs a question a second, short enough that nobody notices who
# opened a tunnel just then; an announcement ends it at once.
_UNKNOWN_FOR: Final = 1.0
_UNKNOWN_REMEMBERED: Final = 10_000  # and as many that are disputed


@dataclass(slots=True, eq=False)
class Route:
    """A tunnel whose home is another node. `pool` leads there."""

    label: str
    epoch: int
    node: str
    h2_enabled: bool
    find_pool: Callable[[], Pool] = field(repr=False)
    visits: set[Visit] = field(default_factory=set, repr=False)

    @property
    def pool(self) -> Pool:
        return self.find_pool()

    @property
    def full(self) -> bool:
        """Its home node counts."""
        return False


class Routes:
    """Routes by label, the least recently used forgotten first."""

    def __init__(self, node: str, pool_of: Callable[[str], Pool | None], clock: Monotonic) -> None:
        """`pool_of` leads to a node by name; None for one that is not known."""
        self._node = node
        self._pool_of = pool_of
        self._clock = clock
        self._routes: OrderedDict[str, Route] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._disputed: OrderedDict[str, int] = OrderedDict()  # labels that two nodes claimed, and with which epoch

    def __len__(self) -> int:
        return len(self._routes)

    def get(self, label: str) -> Route | None:
        """The route, when its node can be reached."""
        route = self._routes.get(label)
        if route is None or self._pool_of(route.node) is None:
            return None
        self._routes.move_to_end(label)
        return route

    def is_unknown(self, label: str) -> bool:
        """Whether everybody was asked a moment ago and nobody knew."""
        until = self._unknown.get(label)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self._unknown[label]
        return False

    def epoch(self, label: str) -> int:
        """The highest epoch that another node is known to have; 0 when none is."""
        route = self._routes.get(label)
        return 0 if route is None else route.epoch

    def learn(self, tunnel: TunnelInfo, *, from_registry: bool = False) -> Route | None:
        """Believe it if its proof fits and nothing newer is known; None when it is not believed.

        A proof is seen by every node that a label passes: two nodes that claim one epoch are for a registry to tell
        apart, whose store has room for one. Until it is asked the label is not routed.
        """
        label = tunnel.label
        if tunnel.node == self._node or not is_label(label) or self._pool_of(tunnel.node) is None:
            return None
        known = self._routes.get(label)
        if known is not None and known.epoch == tunnel.epoch:
            if known.node == tunnel.node:
                return known
            if not from_registry:
                del self._routes[label]
                self._dispute(label, tunnel.epoch)
                return None
        elif known is not None and known.epoch > tunnel.epoch:
            return None
        if not from_registry and self._disputed.get(label, 0) >= tunnel.epoch:
            return None
        if not verify_proof(label, tunnel.epoch, tunnel.proof):
            return None
        self._disputed.pop(label, None)
        route = Route(label, tunnel.epoch, tunnel.node, tunnel.options.h2_enabled, lambda: self._pool(tunnel.node))
        self._routes[label] = route
        self._routes.move_to_end(label)
        if len(self._routes) > _REMEMBERED:
            self._routes.popitem(last=False)
        self._unknown.pop(label, None)
        return route

    def forget(self, label: str, node: str, epoch: int) -> None:
        """That node does not hold it with that epoch (any more)."""
        route = self._routes.get(label)
        if route is not None and route.node == node and route.epoch <= epoch:
            del self._routes[label]

    def nobody_knows(self, label: str) -> None:
        self._unknown[label] = self._clock() + _UNKNOWN_FOR
        self._unknown.move_to_end(label)
        if len(self._unknown) > _UNKNOWN_REMEMBERED:
            self._unknown.popitem(last=False)

    def _dispute(self, label: str, epoch: int) -> None:
        self._disputed[label] = epoch
        if len(self._disputed) > _UNKNOWN_REMEMBERED:
            self._disputed.popitem(last=False)

    def _pool(self, node: str) -> Pool:
        pool = self._pool_of(node)
        assert pool is not None, "a peer with routes is kept"
        return pool
