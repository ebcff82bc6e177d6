"""How many tunnels a token may have in the whole cluster, and which are too many.

Every replica comes to the same answer: the youngest by the store's own order are the ones over the quota.
"""

import heapq

from portway_proto.v1.types_pb2 import TunnelInfo

from portway_registry.state.records import TokenRecord
from portway_registry.state.views import Item, TunnelView, View
from portway_registry.store.contract import Revision


class Quota:
    """Counts tunnels by token, as far as this replica has seen."""

    def __init__(self, tokens: View[TokenRecord], tunnels: TunnelView, *, default: int) -> None:
        self._tokens = tokens
        self._tunnels = tunnels
        self._default = default
        self._gone: dict[str, Revision] = {}  # by label, the bindings that are deleted and may show in the view yet

    def limit(self, token_id: str) -> int:
        token = self._tokens.get(token_id)
        return (token.max_tunnels if token is not None else 0) or self._default

    def free(self, token_id: str) -> int:
        """How many more tunnels the token may have now."""
        held = self._tunnels.of_token(token_id)
        gone = sum(self._gone.get(label) == item.modified for label, item in held.items()) if self._gone else 0
        return max(0, self.limit(token_id) - len(held) + gone)

    def deleted(self, tunnel: Item[TunnelInfo]) -> None:
        """It is gone from the store: its place is free, though the view is late."""
        shown = self._tunnels.items
        self._gone = {
            label: modified
            for label, modified in self._gone.items()
            if (item := shown.get(label)) is not None and item.modified == modified
        }
        self._gone[tunnel.name] = tunnel.modified

    def excess(self, token_id: str) -> list[Item[TunnelInfo]]:
        """The tunnels above the quota: when two replicas each took the last free place, the later one."""
        held = self._tunnels.of_token(token_id)
        over = len(held) - self.limit(token_id)
        if over <= 0:
            return []
        return heapq.nlargest(over, held.values(), key=lambda item: (item.created, item.name))
