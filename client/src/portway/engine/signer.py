"""Signer: the session key of a link, and what is signed and believed with it (WIRE.md §8).

A link makes its key before the first Locate, whose grant names it; a forked child has links of its own, and so keys.
Times are the registry's. Here: greetings, claims, presences, epochs, and whether a claim shows that a label has another
owner. Not here: when each is sent (presences.py, tunnel_set.py), a tunnel's own key (held_tunnel.py).
"""

from collections.abc import Iterable
from typing import Final

from portway_proto.wire.limits import CLOCK_LEEWAY
from portway_proto.wire.statements import (
    Claim,
    Presence,
    SigningKey,
    StatementInvalid,
    cluster_tag,
    is_believable_epoch,
    read_claim,
    sign_claim,
    sign_greeting,
    sign_presence,
)
from portway_runtime.clocks import RegistryClock

# Epochs by which a program that was started later outbids the earlier one that still has its label. One would be enough
# to own it, but the earlier program takes the next epoch whenever it attaches again, before it is told. It does not do
# so a thousand times without hearing of the later one's claim.
OUTBID: Final = 1000


class Signer:
    """The key of one link, for one cluster at a time."""

    def __init__(self, clock: RegistryClock | None = None) -> None:
        self._clock = RegistryClock() if clock is None else clock
        self._key = SigningKey()
        self._keys_before: set[bytes] = set()
        self._cluster = b""
        self._last_time = 0  # of the last presence, at whichever node

    @property
    def session_key(self) -> bytes:
        """The public key: 32 bytes."""
        return self._key.public

    @property
    def spent(self) -> bool:
        """Whether the next presence would not be fresh: a registry with a wrong clock said a time that is far ahead,
        and presences do not go back. Only another key can help."""
        return self._last_time > self._clock.now_ms() + CLOCK_LEEWAY * 1000

    def change_key(self) -> None:
        """Take a new key; grants and sessions of the old one are of no use any more."""
        self._keys_before.add(self.session_key)
        self._key = SigningKey()
        self._last_time = 0

    def is_own(self, claim: Claim) -> bool:
        """Whether this program has signed the claim, rather than another one with the same key file."""
        return claim.session_key == self.session_key or claim.session_key in self._keys_before

    def learn(self, cluster_id: str, registry_time_ms: int) -> None:
        """A registry has answered: what statements are signed for, and the time."""
        self._cluster = cluster_tag(cluster_id)
        self._clock.set(registry_time_ms)

    def learn_time(self, registry_time_ms: int) -> None:
        """A registry has said the time."""
        self._clock.set(registry_time_ms)

    def greeting(self, node: str, certificate: bytes) -> bytes:
        """The signature of HELLO, for the node with this name that has shown this certificate (DER)."""
        return sign_greeting(self._key, self._cluster, node, certificate)

    def epoch_after(self, previous: int) -> int:
        """The epoch of a program's next claim; `previous` is 0 before its first.

        The time now for the first one, and where nobody would believe the next: it was signed by a clock that was far
        ahead.
        """
        now = self._clock.now_ms()
        following = previous + 1 if previous else now
        return following if is_believable_epoch(following, now) else now

    def claim(self, key: SigningKey, epoch: int, node: str, options: bytes) -> Claim:
        """A claim by a tunnel's key, for a session of this signer at this node."""
        return sign_claim(key, self._cluster, epoch=epoch, session_key=self.session_key, node=node, options=options)

    def presence(self, node: str, claims: Iterable[Claim]) -> Presence:
        """A presence at this node that lists these claims. Each is later than all before it, at whichever node."""
        self._last_time = max(self._last_time + 1, self._clock.now_ms())
        ids = frozenset(claim.id for claim in claims)
        return sign_presence(self._key, self._cluster, time_ms=self._last_time, node=node, ids=ids)

    def owner(self, encoded: bytes, instead_of: Claim) -> Claim | None:
        """The claim in these bytes, if it shows that its signer owns the label instead of `instead_of`. None for any
        other: then the node's refusal is its word alone."""
        try:
            claim = read_claim(encoded)
        except StatementInvalid:
            return None
        if claim.key != instead_of.key or claim.rank <= instead_of.rank:
            return None
        if not is_believable_epoch(claim.epoch, self._clock.now_ms()):
            return None
        return claim if claim.signed(self._cluster).is_genuine() else None
