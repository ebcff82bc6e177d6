"""Statements as they were heard: of each sender its claim to each label, and its newest presence of each session.

Here: what is kept, and whether its signature was checked. Nothing here is believed yet: routes.py decides by the
statements that are genuine.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from portway_proto.wire.statements import Claim, Presence, Signed, read_presence

from portway_relay.routing.senders import BySender, Sender


@dataclass(slots=True, eq=False)
class HeardClaim:
    """A claim that a sender has shown.

    vouched_at: when the session that had the label here showed it as where its client went, by this node's clock.
    """

    sender: Sender
    claim: Claim = field(repr=False)
    genuine: bool = False  # its signature was checked
    vouched_at: float | None = None

    def signed(self, cluster: bytes) -> Signed:
        return self.claim.signed(cluster)


@dataclass(slots=True, eq=False)
class HeardPresence:
    """A presence that a sender has shown; a large one is kept as bytes until it is of use.

    heard_at: when it was heard first, by a clock of this node that never goes back.
    """

    sender: Sender
    session_key: bytes = field(repr=False)
    time_ms: int
    encoded: bytes = field(repr=False)
    heard_at: float
    genuine: Presence | None = None  # itself, once its signature was checked

    def signed(self, cluster: bytes) -> Signed:
        return read_presence(self.encoded).signed(cluster)


Word = HeardClaim | HeardPresence


class Heard:
    """A bounded memory of what senders have shown."""

    def __init__(self, claim_evicted: Callable[[HeardClaim], object]) -> None:
        """`claim_evicted` is called with each claim that made room for another one of its sender."""
        self._claims: BySender[str, HeardClaim] = BySender(lambda sender, label, word: claim_evicted(word))
        self._presences: BySender[bytes, HeardPresence] = BySender()

    def claim(self, sender: Sender, claim: Claim) -> HeardClaim | None:
        """Keep a claim; None when this sender has shown it before, or one of higher rank that is genuine."""
        before = self._claims.get(sender, claim.label)
        if before is not None and (
            before.claim.encoded == claim.encoded or (before.genuine and before.claim.rank > claim.rank)
        ):
            return None
        word = HeardClaim(sender, claim)
        word.genuine = any(one.genuine and one.claim.encoded == claim.encoded for one in self._claims.all(claim.label))
        self._claims.put(sender, claim.label, word)
        return word

    def presence(self, sender: Sender, presence: Presence, now: float) -> HeardPresence | None:
        """Keep a presence; None when this sender has shown it before, or a later one that is genuine."""
        key = presence.session_key
        before = self._presences.get(sender, key)
        if before is not None and (
            before.encoded == presence.encoded or (before.genuine is not None and before.time_ms >= presence.time_ms)
        ):
            return None
        word = HeardPresence(sender, key, presence.time_ms, presence.encoded, now)
        for one in self._presences.all(key):
            if one.encoded == presence.encoded:
                # Shown by somebody else, it is no newer than it was.
                word.heard_at = min(word.heard_at, one.heard_at)
                word.genuine = word.genuine or one.genuine
        self._presences.put(sender, key, word)
        return word

    def vouch(self, sender: Sender, claim: Claim, now: float) -> None:
        """The sender, whose client had the label, has shown the claim now. No effect if it is not kept."""
        word = self._claims.get(sender, claim.label)
        if word is not None and word.claim.encoded == claim.encoded:
            word.vouched_at = now

    def vouched_at(self, claim: Claim) -> float | None:
        """When that was; None for a claim that only others have shown."""
        words = [word for word in self._claims.all(claim.label) if word.claim.encoded == claim.encoded]
        return max((word.vouched_at for word in words if word.vouched_at is not None), default=None)

    def claims(self, label: str) -> list[HeardClaim]:
        """All claims to a label, the one of highest rank first."""
        return sorted(self._claims.all(label), key=lambda word: word.claim.rank, reverse=True)

    def presences(self, session_key: bytes) -> list[HeardPresence]:
        """All presences of a session, the latest first."""
        return sorted(self._presences.all(session_key), key=lambda word: word.time_ms, reverse=True)

    def disbelieve(self, word: Word) -> None:
        """Forget a statement that is forged."""
        if isinstance(word, HeardClaim):
            if self._claims.get(word.sender, word.claim.label) is word:
                self._claims.discard(word.sender, word.claim.label)
        elif self._presences.get(word.sender, word.session_key) is word:
            self._presences.discard(word.sender, word.session_key)
