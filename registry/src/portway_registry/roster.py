"""The nodes that clients can be sent to.

The view of the nodes, with one difference: a node whose lease was lost while its stream is here is still there. So a
store that forgot its leases in an outage does not leave clients without nodes until all have registered again.
"""

import random
from collections import Counter

from portway_proto.v1.types_pb2 import NodeInfo

from portway_registry.geoip.locator import Position
from portway_registry.mesh.hub import Hub
from portway_registry.placement.node import placed_node
from portway_registry.placement.order import Placement, Ranked
from portway_registry.views import Item, View


class Roster:
    """Follows the view from the moment it is made until it is closed."""

    def __init__(self, nodes: View[NodeInfo], hub: Hub) -> None:
        self._nodes = nodes
        self._hub = hub
        self._known: dict[str, NodeInfo] = {}
        self._placement = Placement()
        # Chance decides between equals only.
        self._rng = random.Random()  # noqa: S311
        for node in nodes.values():
            self._put(node)
        self._unsubscribe = nodes.subscribe(self._changed)
        hub.on_end.append(self._session_ended)

    async def close(self) -> None:
        self._unsubscribe()
        self._hub.on_end.remove(self._session_ended)

    def candidates(self, client: Position | None, *, region: str, limit: int) -> list[tuple[NodeInfo, Ranked]]:
        """The nodes to try, the best first; `region` empty for any."""
        ranked = self._placement.candidates(client, region=region or None, limit=limit, rng=self._rng)
        return [(self._known[one.node.name], one) for one in ranked]

    def regions(self) -> Counter[str]:
        """How many nodes each region has, whether they take clients or not."""
        return Counter(node.region for node in self._known.values())

    def _changed(self, old: Item[NodeInfo] | None, new: Item[NodeInfo] | None) -> None:
        if new is not None:
            self._put(new.value)
        elif old is not None and not self._hub.has(old.name):
            self._remove(old.name)

    def _session_ended(self, name: str) -> None:
        if name not in self._nodes.items:
            self._remove(name)

    def _put(self, node: NodeInfo) -> None:
        self._known[node.name] = node
        self._placement.put(placed_node(node))

    def _remove(self, name: str) -> None:
        self._known.pop(name, None)
        self._placement.remove(name)
