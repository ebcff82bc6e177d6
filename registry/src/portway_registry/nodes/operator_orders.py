"""What operators order nodes to do: cordon, drain, remove. Stored, so that an order holds on every replica, whether the
node runs or not.

Here: giving an order and taking it back. Not here: how nodes learn of it.
"""

import logging
from collections.abc import Callable

from portway_registry.errors import InvalidRequest, NotFound
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import Order, OrderRecord, encode
from portway_registry.state.views import View, Views
from portway_registry.store.contract import Entry, Store
from portway_registry.store.update import Decision, update
from portway_registry.tunnels.port_blocks import release_blocks

logger = logging.getLogger(__name__)


def is_removed(orders: View[OrderRecord], node: str) -> bool:
    """Whether operators removed the node."""
    order = orders.get(node)
    return order is not None and order.order is Order.REMOVE


class OperatorOrders:
    """The orders of a cluster."""

    def __init__(self, store: Store, views: Views, audit: Audit, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._views = views
        self._audit = audit
        self._now_ms = now_ms

    async def give(self, node: str, order: Order | None, *, by: str) -> None:
        """Order the node to do `order` until it is taken back, which None does; `by` is the operator's token id.

        This replica acts on it when this returns. A node that joined and was removed stays removed until it is invited
        anew: its key may be in other hands. Of another removed node only None takes the order back. Removing a node
        deletes its record and tunnels, and frees its raw ports.

        Raises NotFound for an unknown node, InvalidRequest, StoreUnavailable.
        """

        async def decide(entry: Entry | None) -> Decision[None]:
            await self._require_allowed(node, order, entry)
            if order is None:
                return Decision(None, deletes=True)
            return Decision(None, encode(OrderRecord(node, order, self._now_ms())))

        await update(self._store, keys.order(node), decide, "the node's order changed at each try to write it")
        if order is Order.REMOVE:
            entry = await self._store.get(keys.node(node))
            if entry is not None:
                await self._store.revoke_lease(entry.lease)  # its tunnels have the same lease
            await release_blocks(self._store, self._views, node, self._now_ms())
        await self._views.orders.caught_up(node)
        logger.info("node ordered", extra={"node": node, "order": order or "serve"})
        await self._audit.add_done(by, f"node.{order or 'serve'}", node)

    async def _require_allowed(self, node: str, order: Order | None, entry: Entry | None) -> None:
        """entry: the node's order so far. Decided by what the store has: a node that has just registered is known, and
        one that another replica has just removed stays removed. Raises NotFound and InvalidRequest."""
        views = self._views
        await views.identities.caught_up(node)
        await views.nodes.caught_up(node)
        identity = views.identities.get(node)
        if identity is None and entry is None and node not in views.nodes.items:
            raise NotFound(f"no node {node!r} is known: see `portway-admin node list`")
        before = None if entry is None else views.orders.decode(entry)
        if before is None or before.order is not Order.REMOVE:
            return
        if identity is not None and order is not Order.REMOVE:
            raise InvalidRequest(
                f"node {node} was removed: invite it anew (`portway-admin node invite --region {identity.region} "
                f"--name {node}`)"
            )
        if order in (Order.CORDON, Order.DRAIN):
            raise InvalidRequest(f"node {node} was removed: only `portway-admin node serve {node}` takes that back")
