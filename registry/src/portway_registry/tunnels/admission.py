"""Which announced tunnels are admitted: the proof fits, no higher epoch holds the label, the token's quota has room.

Decided without I/O. Here: the rules. Not here: reading and writing the store.

The highest epoch owns the label. Of equal epochs from two nodes the second is refused (docs/architecture/ownership.md).
Every replica finds the same tunnels over a quota: the latest by the store's own order.
"""

import heapq
from enum import Enum

from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import CHAIN_LENGTH, is_label, verify_proof

from portway_registry.state.records import TokenRecord
from portway_registry.state.views import Item, LastHolder, TunnelView, View
from portway_registry.store.contract import LeaseId, Revision


class Verdict(Enum):
    TAKE = "take"
    # The store has exactly this already: nothing has to be written.
    KNOWN = "known"
    SUPERSEDED = "superseded"


def hash_cost(offered: TunnelInfo, held: Item[TunnelInfo] | None) -> int:
    """The number of hashes that `is_genuine` computes."""
    known = held is not None and held.value.epoch == offered.epoch and held.value.proof == offered.proof
    return 0 if known else min(offered.epoch, CHAIN_LENGTH)


def is_genuine(offered: TunnelInfo, held: Item[TunnelInfo] | None) -> bool:
    """Whether the proof fits label and epoch; one that is in the store was verified before, and is not hashed again."""
    if held is not None and held.value.epoch == offered.epoch and held.value.proof == offered.proof:
        return held.name == offered.label
    return is_label(offered.label) and verify_proof(offered.label, offered.epoch, offered.proof)


def decide(
    offered: TunnelInfo, held: Item[TunnelInfo] | None, lease: LeaseId, last: LastHolder | None = None
) -> Verdict:
    """What becomes of a genuine announcement `offered` on `lease`.

    held: what the store has for its label. last: who held the label before; an epoch belongs to its first holder, also
    while that node is away.
    """
    if last is not None and (last.epoch > offered.epoch or (last.epoch == offered.epoch and last.node != offered.node)):
        return Verdict.SUPERSEDED
    if held is None or held.value.epoch < offered.epoch:
        return Verdict.TAKE
    if held.value.epoch > offered.epoch or held.value.node != offered.node:
        return Verdict.SUPERSEDED
    if held.lease == lease and held.value == offered:
        return Verdict.KNOWN
    return Verdict.TAKE


def may_withdraw(node: str, epoch: int, held: Item[TunnelInfo] | None) -> bool:
    """Whether this withdrawal is of the binding that the store has: a late one never removes a newer binding."""
    return held is not None and held.value.node == node and held.value.epoch == epoch


class Quota:
    """Counts tunnels by token in the whole cluster, as far as this replica has seen."""

    def __init__(self, tokens: View[TokenRecord], tunnels: TunnelView, *, default: int) -> None:
        """`default` is the quota of a token without one of its own."""
        self._tokens = tokens
        self._tunnels = tunnels
        self._default = default
        self._deleted: dict[str, Revision] = {}  # by label: deleted from the store, and possibly still in the view

    def limit(self, token_id: str) -> int:
        """The number of tunnels that the token may have."""
        token = self._tokens.get(token_id)
        return (token.max_tunnels if token is not None else 0) or self._default

    def free(self, token_id: str) -> int:
        """The number of further tunnels that the token may have now."""
        held = self._tunnels.of_token(token_id)
        gone = sum(self._deleted.get(label) == item.modified for label, item in held.items()) if self._deleted else 0
        return max(0, self.limit(token_id) - len(held) + gone)

    def deleted(self, tunnel: Item[TunnelInfo]) -> None:
        """The tunnel was deleted from the store: its place is free, though the view may still show it."""
        shown = self._tunnels.items
        self._deleted = {
            label: modified
            for label, modified in self._deleted.items()
            if (item := shown.get(label)) is not None and item.modified == modified
        }
        self._deleted[tunnel.name] = tunnel.modified

    def excess(self, token_id: str) -> list[Item[TunnelInfo]]:
        """The tunnels over the quota: when two replicas each gave the last free place, the later one."""
        held = self._tunnels.of_token(token_id)
        over = len(held) - self.limit(token_id)
        if over <= 0:
            return []
        return heapq.nlargest(over, held.values(), key=lambda item: (item.created, item.name))
