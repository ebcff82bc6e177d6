"""Which announced tunnels are admitted: the claim and a fresh presence place them, and no higher rank holds the label.

Decided without I/O. Here: the rules. Not here: checking signatures, reading and writing the store.

The highest rank owns the label (docs/architecture/ownership.md). Every replica finds the same tunnels over a quota: the
latest by the store's own order.
"""

import hashlib
import heapq
from enum import Enum
from typing import Final

from portway_proto.records import InvalidRecord, claimed_options
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.limits import KEY_SIZE
from portway_proto.wire.statements import Claim, Presence, is_believable_epoch, read_presence

from portway_registry.state.records import PresenceRecord, TokenRecord
from portway_registry.state.views import Item, TunnelView, View
from portway_registry.store.contract import LeaseId, Revision

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


class Room:
    """What is left of the quotas while one batch is written; the places that it takes itself are counted."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._left: dict[str, int] = {}
        self._taken: set[str] = set()

    def take(self, tunnel: TunnelInfo, replaced: TunnelInfo | None) -> bool:
        """Take a place for a tunnel; False when there is none. `replaced` gives its own place up.

        A label that has its place keeps it, however often it is written.
        """
        token = tunnel.token_id
        if tunnel.label in self._taken or (replaced is not None and replaced.token_id == token):
            return True
        if self._left.setdefault(token, self._quota.free(token)) <= 0:
            return False
        self._left[token] -= 1
        self._taken.add(tunnel.label)
        return True
