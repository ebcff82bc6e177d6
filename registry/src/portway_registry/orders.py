"""What operators want of nodes: kept in the store, so that it stands on every replica, whether the node runs or not.

Here: giving an order and taking it back. Not here: what a node does with it, nor who is told (mesh/hub.py).
"""

from collections.abc import Callable

from portway_registry import keys
from portway_registry.errors import NotFound
from portway_registry.names import check_node
from portway_registry.records import Order, OrderRecord, encode
from portway_registry.store.contract import Store
from portway_registry.views import Views


class Orders:
    """The orders of a cluster."""

    def __init__(self, store: Store, views: Views, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._views = views
        self._now_ms = now_ms

    async def give(self, node: str, order: Order | None) -> None:
        """Let it stand; None takes back whatever stands, for a node that serves as usual.

        Raises NotFound for a node that nobody has heard of, and StoreUnavailable.
        """
        if node not in self._views.nodes.items and node not in self._views.orders.items:
            raise NotFound(f"no node {node!r} is known: see `portway-admin node list`")
        if order is None:
            await self._store.delete(keys.order(check_node(node)))
        else:
            await self._store.put(keys.order(check_node(node)), encode(OrderRecord(node, order, self._now_ms())))
        if order is Order.REMOVE:
            entry = await self._store.get(keys.node(node))
            if entry is not None:
                await self._store.revoke_lease(entry.lease)  # its tunnels hang on it, too
        listing = await self._store.list(keys.order(node))
        await self._views.orders.settled(listing.revision)
