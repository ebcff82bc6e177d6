"""What operators want of nodes: kept in the store, so that it stands on every replica, whether the node runs or not.

Here: giving an order and taking it back. Not here: what a node does with it, nor who is told (mesh/hub.py).
"""

from collections.abc import Callable

from portway_registry.errors import InvalidRequest, NotFound
from portway_registry.names import check_node
from portway_registry.nodes.certificate_status import is_removed
from portway_registry.state import keys
from portway_registry.state.records import Order, OrderRecord, encode
from portway_registry.state.views import Views
from portway_registry.store.contract import Store


class Orders:
    """The orders of a cluster."""

    def __init__(self, store: Store, views: Views, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._views = views
        self._now_ms = now_ms

    async def give(self, node: str, order: Order | None) -> None:
        """Let it stand; None takes back whatever stands, for a node that serves as usual.

        A node that joined and was removed stays removed until it is invited anew: its key may be in other hands.

        Raises NotFound for a node that nobody has heard of, InvalidRequest, and StoreUnavailable.
        """
        views = self._views
        identity = views.identities.get(node)
        if identity is None and node not in views.nodes.items and node not in views.orders.items:
            raise NotFound(f"no node {node!r} is known: see `portway-admin node list`")
        if identity is not None and order is not Order.REMOVE and is_removed(views, node):
            raise InvalidRequest(
                f"node {node} was removed: invite it anew (`portway-admin node invite --region {identity.region} "
                f"--name {node}`)"
            )
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
