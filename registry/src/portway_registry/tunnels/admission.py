"""Whose a label is: the rules by which an announcement is taken or refused, without I/O.

The highest epoch owns the label; equal epochs from two nodes are refused for the second (DESIGN §4).
"""

from enum import Enum

from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.labels import CHAIN_LENGTH, is_label, verify_proof

from portway_registry.state.views import Item, LastHolder
from portway_registry.store.contract import LeaseId


class Verdict(Enum):
    TAKE = "take"
    # It stands in the store exactly so: nothing has to be written.
    KNOWN = "known"
    SUPERSEDED = "superseded"


def hashes(offered: TunnelInfo, held: Item[TunnelInfo] | None) -> int:
    """What `is_genuine` costs."""
    known = held is not None and held.value.epoch == offered.epoch and held.value.proof == offered.proof
    return 0 if known else min(offered.epoch, CHAIN_LENGTH)


def is_genuine(offered: TunnelInfo, held: Item[TunnelInfo] | None) -> bool:
    """Whether the proof fits label and epoch; one that was verified before is not hashed again."""
    if held is not None and held.value.epoch == offered.epoch and held.value.proof == offered.proof:
        return held.name == offered.label
    return is_label(offered.label) and verify_proof(offered.label, offered.epoch, offered.proof)


def decide(
    offered: TunnelInfo, held: Item[TunnelInfo] | None, lease: LeaseId, last: LastHolder | None = None
) -> Verdict:
    """What becomes of a genuine announcement of `offered`, given what the store holds for its label, and who held it
    last: an epoch is its first holder's alone, also while that one is away."""
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
    """Whether this withdrawal is of the binding that stands: a late one never removes a newer."""
    return held is not None and held.value.node == node and held.value.epoch == epoch
