"""The nodes that clients can be sent to.

The view of the nodes' records, with two differences. A node whose lease was lost while its session is here stays: a
store that lost its leases in an outage does not leave clients without nodes until all have registered again. And an
operator's order counts from the moment it is stored, before the node has received it.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Protocol

from portway_geo.position import Position
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeInfo

from portway_registry.placement.order import best_candidates, spread_candidates
from portway_registry.placement.placed_nodes import PlacedNode, placed_node
from portway_registry.placement.places import Places
from portway_registry.placement.round_trips import NOTHING, Learned
from portway_registry.placement.shortlist import Candidate
from portway_registry.state.records import FOR_NODES, FOR_REGISTRIES, STATE_OF_ORDER, OrderRecord
from portway_registry.state.views import Item, View

# A candidate with the record of its node.
Listed = tuple[NodeInfo, Candidate]


class NodeSessions(Protocol):
    """The sessions that nodes have with this replica."""

    on_end: list[Callable[[str], None]]
    """Each is called with a node's name when its session has ended and no newer one is here."""

    def has(self, node: str) -> bool:
        """Whether the node has a session here."""
        ...


class Roster:
    """Follows the views from the moment it is made until it is closed."""

    def __init__(self, nodes: View[NodeInfo], orders: View[OrderRecord], sessions: NodeSessions) -> None:
        self._nodes = nodes
        self._orders = orders
        self._sessions = sessions
        self._records: dict[str, NodeInfo] = {}
        self._places = Places()
        # Decides between equals only.
        self._rng = random.Random()  # noqa: S311
        for node in nodes.values():
            self._put(node)
        self._unsubscribe = (nodes.subscribe(self._node_changed), orders.subscribe(self._order_changed))
        sessions.on_end.append(self._session_ended)

    async def close(self) -> None:
        """Stop following."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._sessions.on_end.remove(self._session_ended)

    def candidates(
        self, client: Position | None, *, region: str, limit: int, learned: Learned = NOTHING
    ) -> list[Listed]:
        """The nodes to try, the best first; with an empty `region` of any region, but few of each."""
        if region:
            found = best_candidates(self._places, client, region=region, limit=limit, rng=self._rng, learned=learned)
        else:
            found = spread_candidates(self._places, client, limit=limit, rng=self._rng, learned=learned)
        return self._listed(found)

    def all(self, client: Position | None, learned: Learned) -> list[Listed]:
        """Every node: those that take clients, the best first, then the others by name."""
        found = best_candidates(self._places, client, limit=len(self._places), rng=self._rng, learned=learned)
        names = {one.node.name for one in found}
        left_out = [node for name in sorted(self._records.keys() - names) if (node := self.node(name))]
        return self._listed(found) + [(self._as_ordered(node.name), Candidate(node, 0)) for node in left_out]

    def node(self, name: str) -> PlacedNode | None:
        """A node as placement sees it, if it is known."""
        return self._places.node(name)

    def regions(self) -> Counter[str]:
        """How many nodes each region has, whether they take clients or not."""
        return Counter(node.region for node in self._records.values())

    def _listed(self, candidates: list[Candidate]) -> list[Listed]:
        return [(self._records[one.node.name], one) for one in candidates]

    def _node_changed(self, old: Item[NodeInfo] | None, new: Item[NodeInfo] | None) -> None:
        if new is not None:
            self._put(new.value)
        elif old is not None and not self._sessions.has(old.name):
            self._remove(old.name)

    def _session_ended(self, name: str) -> None:
        if name not in self._nodes.items:
            self._remove(name)

    def _order_changed(self, old: Item[OrderRecord] | None, new: Item[OrderRecord] | None) -> None:
        for item in (old, new):
            node = self._records.get(item.name) if item is not None else None
            if node is not None:
                self._put(node)

    def _put(self, node: NodeInfo) -> None:
        self._records[node.name] = _for_clients(node)
        placed = placed_node(node)
        if node.name in self._orders.items:
            placed = dataclasses.replace(placed, ready=False)
        self._places.put(placed)

    def _as_ordered(self, name: str) -> NodeInfo:
        """A node's record, with the state that an order demands which it may not have received."""
        node = NodeInfo()
        node.CopyFrom(self._records[name])
        record = self._orders.get(name)
        if record is not None and node.state == NODE_STATE_READY:
            node.state = STATE_OF_ORDER[record.order]
        return node

    def _remove(self, name: str) -> None:
        self._records.pop(name, None)
        self._places.remove(name)


def _for_clients(node: NodeInfo) -> NodeInfo:
    """The record without what only registries use, since each answer has several."""
    shown = NodeInfo()
    shown.CopyFrom(node)
    for field in (*FOR_REGISTRIES, *FOR_NODES):
        shown.ClearField(field)
    return shown


def some_of_each_region(nodes: Sequence[Listed], limit: int) -> Sequence[Listed]:
    """At most `limit` of the nodes, in their order: the first of each region, the second of each, and so on."""
    if len(nodes) <= limit:
        return nodes
    regions: dict[str, list[str]] = {}
    for node, _ in nodes:
        regions.setdefault(node.region, []).append(node.name)
    in_turn = [name for name in chain.from_iterable(zip_longest(*regions.values())) if name is not None]
    chosen = set(in_turn[:limit])
    return [one for one in nodes if one[0].name in chosen]
