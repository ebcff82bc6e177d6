"""A budget for the checking of epochs' proofs.

A proof of epoch k takes k hashes, up to a millisecond, and costs its sender nothing to make up. So hashes are counted
for each node and for each token. Not here: what a proof shows (portway_proto.wire.labels).
"""

from collections import Counter
from typing import Final

from portway_proto.wire.labels import CHAIN_LENGTH, PROOF_SIZE, is_label
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import KeyedRate

# Nodes and tokens with a bucket of their own; one that is forgotten begins with a full bucket again.
_MAX_SENDERS: Final = 10_000


class Proofs:
    """Token buckets of hashes, one for each sender of proofs."""

    def __init__(self, rate: float, burst: float, clock: Monotonic) -> None:
        """`burst` hashes at once, then `rate` hashes per second, for each sender."""
        self._burst = burst
        self._hashes: KeyedRate[tuple[str, str]] = KeyedRate(rate, burst, clock, _MAX_SENDERS)
        self.unchecked: Counter[str] = Counter()  # proofs above the budget, by kind of sender

    def wait(self, kind: str, name: str, epoch: int) -> float:
        """Seconds until a proof of this epoch may be checked for this sender; 0 means now, and takes its hashes.

        kind, name: "node" and the node's name, or "token" and the token's id.
        """
        wait = self._hashes.take_or_wait((kind, name), min(epoch, CHAIN_LENGTH, self._burst))
        if wait:
            self.unchecked[kind] += 1
        return wait


def is_proof(label: str, epoch: int, proof: bytes) -> bool:
    """Whether these have the form of a label, an epoch and a proof; this takes no hashing."""
    return is_label(label) and 1 <= epoch <= CHAIN_LENGTH and len(proof) == PROOF_SIZE
