"""Which announced tunnels are admitted: the proof fits, and no higher epoch holds the label.

Decided without I/O. Here: the rules. Not here: reading and writing the store, quotas (quota.py).

The highest epoch owns the label. Of equal epochs from two nodes the second is refused (docs/architecture/ownership.md).
"""

from enum import Enum

from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import CHAIN_LENGTH, is_label, verify_proof

from portway_registry.state.views import Item, LastHolder
from portway_registry.store.contract import LeaseId


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
