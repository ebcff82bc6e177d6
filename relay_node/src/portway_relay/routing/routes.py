"""Where labels are that are not here: what other nodes and registries have said, as far as it is still believed.

Here: a bounded memory of routes and of names that nobody knows; the highest epoch that proves itself wins. Not here:
asking anybody (lookup.py).
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from portway_carrier.contract import Pool, Visit
from portway_proto.v1.types_pb2 import TunnelInfo, TunnelOptions
from portway_proto.wire.labels import verify_proof
from portway_runtime.clocks import Monotonic

from portway_relay.routing.proofs import Proofs, is_proof
from portway_relay.routing.tunnel import Tunnel

# About 60 MB: more names than a node sees in an hour. What is forgotten is asked for again.
_REMEMBERED: Final = 100_000
# Long enough that a name which is asked for in a loop costs a question a second, short enough that nobody notices who
# opened a tunnel just then; an announcement ends it at once.
_UNKNOWN_FOR: Final = 1.0
_UNKNOWN_REMEMBERED: Final = 10_000
# A client that lost its node has its tunnels elsewhere after seconds, and a session is kept for as long. Whoever comes
# for a name that has been gone for longer is answered like all who come for a name that nobody knows.
_RETURNS_WITHIN: Final = 60.0
_CLOSED: Final = 0.0


class Belief(Enum):
    """What is thought of a route."""

    HINTED = "hinted"  # by the client that left this node: any node's own word counts for more
    TOLD = "told"  # by the node itself
    CONFIRMED = "confirmed"  # by a registry, whose store has room for one
    DISPUTED = "disputed"  # two nodes claim this epoch: nobody is routed until a registry has told them apart
    GONE = "gone"  # the node has let go of it; lower epochs are over all the same
    DENIED = "denied"  # its client named this node, which has it not; who has it is still to be heard


_ROUTED: Final = frozenset({Belief.HINTED, Belief.TOLD, Belief.CONFIRMED})
_OVER: Final = frozenset({Belief.GONE, Belief.DENIED})
_BY_CLIENT: Final = frozenset({Belief.HINTED, Belief.DENIED})


@dataclass(slots=True, eq=False)
class Route:
    """A tunnel whose home is another node, with the highest epoch that has proved itself."""

    label: str = field(repr=False)
    epoch: int
    proof: bytes = field(repr=False)
    node: str
    h2_enabled: bool
    last_pool: Pool = field(repr=False)
    find_pool: Callable[[str], Pool | None] = field(repr=False)
    belief: Belief = Belief.TOLD
    asked: bool = False  # a registry or the nodes of the name's region have had their say since it was told
    visits: set[Visit] = field(default_factory=set, repr=False)

    @property
    def pool(self) -> Pool:
        """What leads to its node now; one that leads there no more turns visitors away."""
        self.last_pool = self.find_pool(self.node) or self.last_pool
        return self.last_pool

    @property
    def full(self) -> bool:
        """Its home node counts."""
        return False


class Routes:
    """Routes by label, the least recently used forgotten first."""

    def __init__(
        self,
        node: str,
        pool_of: Callable[[str], Pool | None],
        held_epoch: Callable[[str], int],
        superseded: Callable[[str, int], None],
        proofs: Proofs,
        clock: Monotonic,
    ) -> None:
        """`pool_of` leads to a node by name; None for one that is not known. `held_epoch` is that of this node's own
        binding, 0 without one. `superseded` is told of a label that is elsewhere with a higher epoch than this."""
        self._node = node
        self._pool_of = pool_of
        self._held_epoch = held_epoch
        self._superseded = superseded
        self._proofs = proofs
        self._clock = clock
        self._routes: OrderedDict[str, Route] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._had: OrderedDict[str, int] = OrderedDict()  # epochs of this node's own bindings
        # Node and epoch of who held a label last, as a registry has it.
        self._last: OrderedDict[str, tuple[str, int]] = OrderedDict()
        # The epoch that was let go of, and until when its client is waited for; `_CLOSED` when it is not.
        self._let_go: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._routes)

    def get(self, label: str) -> Route | None:
        """The route, when it is believed and its node is known."""
        route = self._routes.get(label)
        if route is None or route.belief not in _ROUTED or self._pool_of(route.node) is None:
            return None
        self._routes.move_to_end(label)
        return route

    def last(self, label: str) -> tuple[str, int] | None:
        """Node and epoch of the last route, whatever is thought of it now."""
        route = self._routes.get(label)
        return None if route is None else (route.node, route.epoch)

    def is_unknown(self, label: str) -> bool:
        """Whether everybody was asked a moment ago and nobody knew."""
        until = self._unknown.get(label)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self._unknown[label]
        return False

    def is_moving(self, label: str) -> bool:
        """Whether it was somewhere a moment ago, and its client may bind it elsewhere in another."""
        route = self._routes.get(label)
        if route is not None and route.belief not in _OVER:
            return True
        _, until = self._let_go.get(label, (0, _CLOSED))
        return self._clock() < until

    def closed_epoch(self, label: str) -> int:
        """With which epoch it was let go of for good; 0 when it was not, or has been bound again."""
        epoch, until = self._let_go.get(label, (0, _CLOSED))
        return epoch if until == _CLOSED else 0

    def epoch(self, label: str) -> int:
        """The highest epoch that any node, this one too, is known to have or to have had; 0 when none is."""
        route = self._routes.get(label)
        return max(self._had.get(label, 0), 0 if route is None else route.epoch)

    def learn(self, tunnel: TunnelInfo, *, from_registry: bool = False) -> Route | None:
        """Believe it if its proof fits and nothing newer is known; None when it is not believed.

        A proof is seen by every node that a label passes, so whoever comes second with an epoch is not believed: a
        binding of this node's own stays, and between two others a registry tells. A lower epoch never returns.
        """
        label = tunnel.label
        pool = self._pool_of(tunnel.node)
        if tunnel.node == self._node or pool is None:
            return None
        if tunnel.epoch <= max(self._held_epoch(label), self._had.get(label, 0)):
            return None
        if self._is_anothers(label, tunnel.node, tunnel.epoch):
            return None
        known = self._routes.get(label)
        if known is not None and known.epoch >= tunnel.epoch:
            return self._learn_again(known, tunnel, pool, from_registry=from_registry)
        if not self._proves_itself(tunnel, "node", tunnel.node):
            return None
        return self._believe(tunnel, pool, Belief.CONFIRMED if from_registry else Belief.TOLD)

    def client_moved(self, tunnel: Tunnel, node: str, epoch: int, proof: bytes) -> None:
        """The client of a tunnel that this node holds, or held, says that it is bound elsewhere now.

        Its epoch is proved, that the node has it is not: so visitors are sent there until a node or a registry speaks
        of this epoch or a later one, and the binding here is over when its client leaves, not before.
        """
        label, pool = tunnel.label, self._pool_of(node)
        if node == self._node or pool is None or epoch <= max(tunnel.epoch, self.epoch(label)):
            return
        options = TunnelOptions(h2_enabled=tunnel.h2_enabled)
        there = TunnelInfo(label=label, node=node, epoch=epoch, proof=proof, options=options)
        if not self._is_anothers(label, node, epoch) and self._proves_itself(there, "token", tunnel.holder.token_id):
            self._believe(there, pool, Belief.HINTED)

    def learn_last(self, label: str, node: str, epoch: int) -> None:
        """A registry says that nobody holds the label, and that this node did, with the highest epoch.

        It may be ahead of the registry, and hold it again; no other node may have it with this epoch.
        """
        self._last[label] = (node, epoch)
        self._last.move_to_end(label)
        if len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)
        route = self._routes.get(label)
        if route is not None and route.belief in _ROUTED and self._is_anothers(label, route.node, route.epoch):
            _end(route)
            self.let_go(label, epoch, closed=False)

    def forget(self, label: str, node: str, epoch: int, *, closed: bool = False) -> None:
        """That node does not hold it with that epoch (any more); `closed` as in `let_go`."""
        route = self._routes.get(label)
        if route is None or route.node != node or route.epoch > epoch or route.belief is Belief.DISPUTED:
            return
        if closed or route.belief in _ROUTED:
            self.let_go(label, epoch, closed=closed)
        if closed:
            route.belief = Belief.GONE
        else:
            _end(route)

    def let_go(self, label: str, epoch: int, *, closed: bool) -> None:
        """Who held it with that epoch does so no more. `closed` by its client's wish: it is gone like a name that never
        was. Else its client is on its way to this node or another one."""
        before, until = self._let_go.get(label, (0, _CLOSED))
        if before > epoch or (before == epoch and until == _CLOSED):
            return
        self._let_go[label] = (epoch, _CLOSED if closed else self._clock() + _RETURNS_WITHIN)
        self._let_go.move_to_end(label)
        if len(self._let_go) > _REMEMBERED:
            self._let_go.popitem(last=False)

    def bound_here(self, label: str, epoch: int) -> None:
        """This node holds it now, with a higher epoch than was known of any other; that is not forgotten when it is
        let go of, so that nobody comes with an old one then."""
        self._routes.pop(label, None)
        self._unknown.pop(label, None)
        self._let_go.pop(label, None)
        self._had[label] = epoch
        self._had.move_to_end(label)
        if len(self._had) > _REMEMBERED:
            self._had.popitem(last=False)

    def nobody_knows(self, label: str) -> None:
        self._unknown[label] = self._clock() + _UNKNOWN_FOR
        self._unknown.move_to_end(label)
        if len(self._unknown) > _UNKNOWN_REMEMBERED:
            self._unknown.popitem(last=False)

    def _is_anothers(self, label: str, node: str, epoch: int) -> bool:
        """Whether the label was held last with a higher epoch, or with this one by another node."""
        last_node, last_epoch = self._last.get(label, (node, 0))
        return epoch < last_epoch or (epoch == last_epoch and node != last_node)

    def _learn_again(self, known: Route, tunnel: TunnelInfo, pool: Pool, *, from_registry: bool) -> Route | None:
        """The label has a route with this epoch or a higher one."""
        if known.epoch > tunnel.epoch or known.proof != tunnel.proof:
            return None
        if known.node == tunnel.node and tunnel.epoch == self.closed_epoch(tunnel.label):
            return None  # who says so has not heard yet that its client has closed it
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
        """Whether the proof fits; what it costs to see is counted for who shows it."""
        if not is_proof(tunnel.label, tunnel.epoch, tunnel.proof):
            return False
        if self._proofs.wait(kind, name, tunnel.epoch):
            return False  # whoever needs the label asks for it; what costs nothing to make up is not worth a queue
        return verify_proof(tunnel.label, tunnel.epoch, tunnel.proof)

    def _believe(self, tunnel: TunnelInfo, pool: Pool, belief: Belief) -> Route:
        label = tunnel.label
        h2_enabled = tunnel.options.h2_enabled
        route = Route(label, tunnel.epoch, tunnel.proof, tunnel.node, h2_enabled, pool, self._pool_of, belief)
        self._routes[label] = route
        self._routes.move_to_end(label)
        if len(self._routes) > _REMEMBERED:
            self._routes.popitem(last=False)
        self._unknown.pop(label, None)
        self._let_go.pop(label, None)
        if belief is not Belief.HINTED:
            self._superseded(label, tunnel.epoch - 1)
        return route


def _end(route: Route) -> None:
    """Its node has it no more, or never had."""
    route.belief = Belief.DENIED if route.belief in _BY_CLIENT else Belief.GONE
