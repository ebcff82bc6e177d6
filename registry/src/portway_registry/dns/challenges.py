"""Proofs of control of a name, which a certificate authority looks for in DNS (RFC 8555, section 8.4).

Here: publishing one until every name server answers by it, and taking it back. Not here: the order that needs it.
"""

import hashlib
import logging
from collections.abc import Callable
from typing import Final

from portway_registry.state import keys
from portway_registry.state.domain_records import ChallengeRecord
from portway_registry.state.records import encode
from portway_registry.state.views import Views
from portway_registry.state.waiting import until
from portway_registry.store.contract import Revision, Store

logger = logging.getLogger(__name__)

# Seconds for which name servers are waited for: one that is silent is known to be after that.
PUBLISHED_WITHIN: Final = 15.0


class Challenges:
    """The proofs of a cluster, at whichever replica they were published."""

    def __init__(
        self,
        store: Store,
        views: Views,
        now_ms: Callable[[], int],
        *,
        within: float = PUBLISHED_WITHIN,
        first_within: float = 0.0,
    ) -> None:
        """within: seconds for which servers are waited for. first_within: for which the first one of a cluster is, in
        whose first seconds none answers yet."""
        self._store = store
        self._views = views
        self._now_ms = now_ms
        self._within = within
        self._first_within = first_within

    async def publish(self, name: str, value: str) -> None:
        """Answer TXT queries for `name`, fully qualified, by `value`, beside the values that it has already.

        Returns once every live node that answers DNS has said that it does by this, at whichever replica it is; after
        `within` seconds at most, which begin when a node answers or `first_within` seconds are over, with a warning
        that names the others. Raises StoreUnavailable. Cancelled, it may be published.
        """
        name = name.rstrip(".").lower()
        record = ChallengeRecord(name, value, self._now_ms())
        key = keys.challenge(_id_of(name, value))
        await self._store.put(key, encode(record))
        entry = await self._store.get(key)
        if entry is None:  # taken back already
            return
        nodes = [self._views.nodes]
        await until(self._answered, nodes, self._first_within)
        if not await until(lambda: not self._lacking(entry.modified), nodes, self._within):
            lacking = self._lacking(entry.modified)
            logger.warning(
                "a proof for a certificate is not answered everywhere yet", extra={"nodes": ", ".join(lacking)}
            )
        elif not self._answered():
            logger.warning("a proof for a certificate is published, and no node answers DNS", extra={"proves": name})

    async def withdraw(self, name: str, value: str) -> None:
        """Answer by `value` no more. May be called again, and for what was never published. Raises StoreUnavailable."""
        await self._store.delete(keys.challenge(_id_of(name.rstrip(".").lower(), value)))

    def _answered(self) -> bool:
        """Whether a node answers DNS."""
        return any(node.dns for node in self._views.nodes.values())

    def _lacking(self, revision: Revision) -> list[str]:
        return sorted(node.name for node in self._views.nodes.values() if node.dns and node.dns_version < revision)


def _id_of(name: str, value: str) -> str:
    return hashlib.sha256(f"{name} {value}".encode()).hexdigest()[:32]
