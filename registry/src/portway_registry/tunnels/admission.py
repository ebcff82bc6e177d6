"""Which announced tunnels are admitted: the claim and a fresh presence place them, and no higher rank holds the label.

Decided without I/O. Here: the rules. Not here: checking signatures, reading and writing the store, quotas (quota.py).

The highest rank owns the label (docs/architecture/ownership.md).
"""

import hashlib
from enum import Enum
from typing import Final

from portway_proto.records import InvalidRecord, claimed_options
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.limits import KEY_SIZE
from portway_proto.wire.statements import Claim, Presence, is_believable_epoch, read_presence

from portway_registry.state.records import PresenceRecord
from portway_registry.state.views import Item
from portway_registry.store.contract import LeaseId

# Tunnels that one node may have in the store: twice what a node of two cores holds idle.
MAX_TUNNELS: Final = 20_000


class Verdict(Enum):
    TAKE = "take"
    # The store has exactly this already: nothing has to be written.
    KNOWN = "known"
    SUPERSEDED = "superseded"


def decide(offered: TunnelInfo, held: Item[TunnelInfo] | None, lease: LeaseId) -> Verdict:
    """What becomes of an announcement `offered` on `lease`. held: what the store has for its label."""
    if held is None:
        return Verdict.TAKE
    if held.value.claim == offered.claim:
        return Verdict.KNOWN if held.lease == lease and held.value == offered else Verdict.TAKE
    same_key = held.value.claim[:KEY_SIZE] == offered.claim[:KEY_SIZE]
    return Verdict.TAKE if same_key and _rank(offered) > _rank(held.value) else Verdict.SUPERSEDED


def _rank(tunnel: TunnelInfo) -> tuple[int, bytes]:
    """Claim.rank of the tunnel's claim."""
    return tunnel.epoch, hashlib.sha256(tunnel.claim).digest()


def objection(announced: TunnelInfo, claim: Claim, presence: Presence | None, *, node: str, now_ms: int) -> str | None:
    """Why `node` may not announce a tunnel with this claim; None when nothing but the signatures is open.

    presence: the newest one of the claim's session that may count, if any; it is fresh.
    """
    if (claim.label, claim.epoch) != (announced.label, announced.epoch):
        return "its claim is of another label or epoch"
    if claim.node != node:
        return "its claim is for another node"
    if not is_believable_epoch(claim.epoch, now_ms):
        return "its epoch is too far ahead"
    try:
        options = claimed_options(claim.options)
    except InvalidRecord as error:
        return str(error)
    if options != announced.options:
        return "its options are not its claim's"
    if announced.unencrypted_port and not options.unencrypted:
        return "it has a raw port that its claim does not ask for"
    if presence is None:
        return "nothing shows that its session is at this node now"
    if not presence.places(claim):
        return "the presence of its session does not place it here"
    return None


def newest(sent: Presence, stored: PresenceRecord | None) -> Presence:
    """Of the presences of one session the one that counts: the later one; at the same time the stored one."""
    if stored is None or sent.time_ms > stored.time_ms or sent.encoded == stored.encoded:
        return sent
    return read_presence(stored.encoded)


def may_withdraw(node: str, epoch: int, held: Item[TunnelInfo] | None) -> bool:
    """Whether this withdrawal is of the binding that the store has: a late one never removes a newer binding."""
    return held is not None and held.value.node == node and held.value.epoch == epoch
