"""The secret that nodes' keys for PROXY headers are made of: making it, replacing it by time, and each node's key.

Here: all changes of the record. Replicas need not agree on which of them changes it: each change is a compare-and-swap.
Not here: checking headers (portway_registry.net.node_headers), telling nodes (registry_fronts.py).
"""

import logging
import secrets
from collections.abc import Callable
from typing import Final

import msgspec
from portway_runtime.node_headers import KEY_SIZE, node_key

from portway_registry.state import keys
from portway_registry.state.lookout import Lookout
from portway_registry.state.records import FrontKeyRecord, Order, encode
from portway_registry.state.views import Item, Views
from portway_registry.store.contract import ABSENT, Store

logger = logging.getLogger(__name__)

# How long a secret is in use. Headers by it are accepted for as long again.
LIFE_MS: Final = 24 * 3_600_000
# How long every replica has to hear of the next one before a node writes headers by it.
ANNOUNCED_MS: Final = 600_000
_CHECK_EVERY: Final = 60.0  # seconds


class FrontKey:
    """The cluster's secret, rotated by time."""

    def __init__(self, store: Store, views: Views, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._views = views
        self._now_ms = now_ms
        self._lookout = Lookout(self.look, every=_CHECK_EVERY, trouble="the key of PROXY headers is not rotated")

    def of_node(self, node: str) -> bytes:
        """The key that a node writes headers with now; empty while there is none."""
        return next(iter(self.accepted(node)), b"")

    def accepted(self, node: str) -> tuple[bytes, ...]:
        """The keys by which headers of this node are believed, the one in use first: none of a node that was removed,
        and only those of the node that the name was last given to."""
        record = self._record()
        order = self._views.orders.get(node)
        if record is None or (order is not None and order.order is Order.REMOVE):
            return ()
        identity = self._views.identities.get(node)
        since = 0 if identity is None else identity.joined_at_ms
        return tuple(node_key(secret, node, since) for secret in (record.key, record.other) if secret)

    async def run(self) -> None:
        """Make it, and replace it when that is due, for ever; during an outage of the store as soon as it is over."""
        await self._lookout.run([self._views.front_key.subscribe(self._noticed)])

    async def look(self) -> None:
        """Make what is missing or due now. Raises StoreUnavailable."""
        now, item = self._now_ms(), self._item()
        if item is None:
            if await self._store.put(keys.FRONT_KEY, encode(FrontKeyRecord(_secret(), now)), expected=ABSENT):
                logger.info("key of PROXY headers made")
            return
        record, age = item.value, now - item.value.changed_at_ms
        if record.other_is_next and age >= ANNOUNCED_MS:
            after = FrontKeyRecord(record.other, now, record.key)
            news = "key of PROXY headers replaced"
        elif not record.other_is_next and age >= LIFE_MS:
            after = msgspec.structs.replace(record, changed_at_ms=now, other=_secret(), other_is_next=True)
            news = "next key of PROXY headers made"
        else:
            return
        if await self._store.put(keys.FRONT_KEY, encode(after), expected=item.modified):
            logger.info(news)

    def _item(self) -> Item[FrontKeyRecord] | None:
        return self._views.front_key.items.get("")

    def _record(self) -> FrontKeyRecord | None:
        item = self._item()
        return None if item is None else item.value

    def _noticed(self, old: Item[FrontKeyRecord] | None, new: Item[FrontKeyRecord] | None) -> None:
        self._lookout.notice()


def _secret() -> bytes:
    return secrets.token_bytes(KEY_SIZE)
