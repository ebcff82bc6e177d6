"""Checking epochs' proofs, and how much of that others may ask for.

A proof of epoch k takes k hashes, up to a millisecond; who makes it up pays nothing. So hashes are counted, for each
node and for each token. Here: the account. Not here: what a proof shows (portway_proto.wire.labels), what follows.
"""

from collections import Counter, OrderedDict
from typing import Final

from portway_proto.wire.labels import CHAIN_LENGTH, PROOF_SIZE, is_label
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import TokenBucket

# Nodes and tokens; the one that asked for nothing for longest is forgotten first, which is in its favour.
_REMEMBERED: Final = 10_000


class Proofs:
    """Whose proofs have cost how much."""

    def __init__(self, a_second: float, burst: float, clock: Monotonic) -> None:
        """In hashes, for each who asks: `a_second` for long, `burst` at once."""
        self._a_second = a_second
        self._burst = burst
        self._clock = clock
        self._accounts: OrderedDict[tuple[str, str], TokenBucket] = OrderedDict()
        self.unchecked: Counter[str] = Counter()  # by kind: "node" and "token"

    def wait(self, kind: str, name: str, epoch: int) -> float:
        """0 when a proof of this epoch may be checked now, for this one of its kind; it is counted then. Else in so
        many seconds."""
        account = self._accounts.get((kind, name))
        if account is None:
            account = self._accounts[kind, name] = TokenBucket(self._a_second, self._burst, self._clock)
            if len(self._accounts) > _REMEMBERED:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end((kind, name))
        wait = account.take_or_wait(min(epoch, CHAIN_LENGTH, self._burst))
        if wait:
            self.unchecked[kind] += 1
        return wait


def is_proof(label: str, epoch: int, proof: bytes) -> bool:
    """Whether it has the form of one, which costs nothing to see."""
    return is_label(label) and 1 <= epoch <= CHAIN_LENGTH and len(proof) == PROOF_SIZE
