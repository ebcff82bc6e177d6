"""Labels that prove themselves: the hash chain behind a tunnel's name (WIRE.md, "Labels").

x0 is a random seed, each next x is the SHA-256 of the one before, x4096 is the anchor. The label names the anchor;
epoch k is proved by showing x(4096 - k), which only the holder of the seed can know before epoch k + 1 is used.
"""

import base64
import hashlib
import re
import secrets
from typing import Final, NewType

Label = NewType("Label", str)
Epoch = NewType("Epoch", int)

CHAIN_LENGTH: Final = 4096
SEED_SIZE: Final = 32
PROOF_SIZE: Final = 32
LABEL_LENGTH: Final = 16

_PREFIX: Final = b"portway-label-1"
_LABEL_BYTES: Final = 10  # 80 bits: 16 characters of base32 without padding
_PATTERN: Final = re.compile(r"[a-z2-7]{16}")
_STRIDE: Final = 64  # every 64th x is kept: 64 hashes at the most for any proof, 2 KiB a chain


def _hash_times(value: bytes, times: int) -> bytes:
    sha256 = hashlib.sha256
    for _ in range(times):
        value = sha256(value).digest()
    return value


def label_of(anchor: bytes) -> Label:
    """The label that names this anchor (32 bytes)."""
    digest = hashlib.sha256(_PREFIX + anchor).digest()
    return Label(base64.b32encode(digest[:_LABEL_BYTES]).decode("ascii").lower())


def is_label(text: str) -> bool:
    """Whether `text` has a label's form; nothing is said of its being bound."""
    return _PATTERN.fullmatch(text) is not None


def verify_proof(label: str, epoch: int, proof: bytes) -> bool:
    """Whether `proof` shows that the label's owner uses epoch `epoch` (1 to 4096)."""
    if not 1 <= epoch <= CHAIN_LENGTH or len(proof) != PROOF_SIZE:
        return False
    return label_of(_hash_times(proof, epoch)) == label


class Chain:
    """The owner's side: a seed, its label, and a proof for any epoch."""

    __slots__ = ("_checkpoints", "label")

    def __init__(self, seed: bytes | None = None) -> None:
        """Walk the whole chain from `seed` (32 bytes; a random one by default): about 4 ms."""
        value = secrets.token_bytes(SEED_SIZE) if seed is None else seed
        if len(value) != SEED_SIZE:
            raise ValueError(f"a seed has {SEED_SIZE} bytes, not {len(value)}")
        self._checkpoints = []
        for _ in range(CHAIN_LENGTH // _STRIDE):
            self._checkpoints.append(value)
            value = _hash_times(value, _STRIDE)
        self.label = label_of(value)

    def proof(self, epoch: int) -> bytes:
        """x(4096 - epoch). Raises ValueError outside 1 to 4096: the chain is used up, take a new label."""
        if not 1 <= epoch <= CHAIN_LENGTH:
            raise ValueError(f"epoch {epoch} is outside 1 to {CHAIN_LENGTH}")
        index = CHAIN_LENGTH - epoch
        return _hash_times(self._checkpoints[index // _STRIDE], index % _STRIDE)
