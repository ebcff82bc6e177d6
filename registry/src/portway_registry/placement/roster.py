"""The nodes that clients can be sent to.

The view of the nodes, with two differences. A node whose lease was lost while its stream is here is still there: so a
store that forgot its leases in an outage does not leave clients without nodes until all have registered again. And an
operator's order counts from when it stands, whether the node has heard of it or not.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from portway_geo.position import Position
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeInfo

from portway_registry.placement.order import Placement
from portway_registry.placement.placed_nodes import PlacedNode, placed_node
from portway_registry.placement.round_trips import NOTHING, Learned
from portway_registry.placement.shortlist import Ranked
from portway_registry.state.records import STATE_OF_ORDER, OrderRecord
from portway_registry.state.views import Item, View


class NodeSessions(Protocol):
    """The sessions that nodes have with this replica."""

    on_end: list[Callable[[str], None]]
    """Each is called with a node's name when its session has ended and no newer one is here."""

    def has(self, node: str) -> bool:
        """Whether the node has a session here."""
        ...


class Roster:
    """Follows the view from the moment it is made until it is closed."""

    def __init__(self, nodes: View[NodeInfo], orders: View[OrderRecord], sessions: NodeSessions) -> None:
        self._nodes = nodes
        self._orders = orders
        self._sessions = sessions
        self._known: dict[str, NodeInfo] = {}
        self._placement = Placement()
        # Chance decides between equals only.
        self._rng = random.Random()  # noqa: S311
        for node in nodes.values():
            self._put(node)
        self._unsubscribe = (nodes.subscribe(self._changed), orders.subscribe(self._ordered))
        sessions.on_end.append(self._session_ended)

    async def close(self) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._sessions.on_end.remove(self._session_ended)

    def candidates(
        self, client: Position | None, *, region: str, limit: int, learned: Learned = NOTHING
    ) -> list[tuple[NodeInfo, Ranked]]:
        """The nodes to try, the best first; `region` empty for any, and then few of each."""
        placement = self._placement
        if region:
            ranked = placement.candidates(client, region=region, limit=limit, rng=self._rng, learned=learned)
        else:
            ranked = placement.spread_candidates(client, limit=limit, rng=self._rng, learned=learned)
        return self._with_infos(ranked)

    def all(self, client: Position | None, learned: Learned) -> list[tuple[NodeInfo, Ranked]]:
        """Every node: those that take clients, the best first, then the others."""
        placement = self._placement
        ranked = placement.candidates(client, limit=len(placement), rng=self._rng, learned=learned)
        found = self._with_infos(ranked)
        named = {node.name for node, _ in found}
        left_out = sorted(self._known.keys() - named)
        return found + [(self._shown(name), Ranked(placed, 0)) for name in left_out if (placed := self.get(name))]

    def _with_infos(self, ranked: list[Ranked]) -> list[tuple[NodeInfo, Ranked]]:
        return [(self._known[one.node.name], one) for one in ranked]

    def get(self, name: str) -> PlacedNode | None:
        """A node as placement sees it, if it is known."""
        return self._placement.get(name)

    def regions(self) -> Counter[str]:
        """How many nodes each region has, whether they take clients or not."""
        return Counter(node.region for node in self._known.values())

    def _changed(self, old: Item[NodeInfo] | None, new: Item[NodeInfo] | None) -> None:
        if new is not None:
            self._put(new.value)
        elif old is not None and not self._sessions.has(old.name):
            self._remove(old.name)

    def _session_ended(self, name: str) -> None:
        if name not in self._nodes.items:
            self._remove(name)

    def _ordered(self, old: Item[OrderRecord] | None, new: Item[OrderRecord] | None) -> None:
        for item in (old, new):
            node = self._known.get(item.name) if item is not None else None
            if node is not None:
                self._put(node)

    def _put(self, node: NodeInfo) -> None:
        self._known[node.name] = node
        placed = placed_node(node)
        if node.name in self._orders.items:
            placed = dataclasses.replace(placed, ready=False)
        self._placement.put(placed)

    def _shown(self, name: str) -> NodeInfo:
        """A node with its state as the order has it that it may not have heard of."""
        node = NodeInfo()
        node.CopyFrom(self._known[name])
        standing = self._orders.get(name)
        if standing is not None and node.state == NODE_STATE_READY:
            node.state = STATE_OF_ORDER[standing.order]
        return node

    def _remove(self, name: str) -> None:
        self._known.pop(name, None)
        self._placement.remove(name)
