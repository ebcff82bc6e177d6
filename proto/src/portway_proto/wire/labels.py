"""Labels that prove themselves: the hash chain behind a tunnel's name (WIRE.md §8).

x0 is a random seed, each following x is the SHA-256 of the one before, and x4096 is the anchor, which the label names.
The proof of epoch k is x(4096 - k), which only the holder of the seed knows before epoch k + 1 is used.
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
_KEY_PREFIX: Final = b"portway-label-2"
_LABEL_BYTES: Final = 10  # 80 bits: 16 characters of base32 without padding
_PATTERN: Final = re.compile(r"[a-z2-7]{16}")
_STRIDE: Final = 64  # every 64th x is stored: at most 64 hashes for a proof, 2 KiB per chain


def _hash_times(value: bytes, times: int) -> bytes:
    sha256 = hashlib.sha256
    for _ in range(times):
        value = sha256(value).digest()
    return value


def label_of(anchor: bytes) -> Label:
    """The label that names this anchor (32 bytes)."""
    digest = hashlib.sha256(_PREFIX + anchor).digest()
    return Label(base64.b32encode(digest[:_LABEL_BYTES]).decode("ascii").lower())


def label_of_key(public_key: bytes) -> Label:
    """The label of a tunnel's public key (Ed25519, 32 bytes)."""
    digest = hashlib.sha256(_KEY_PREFIX + public_key).digest()
    return Label(base64.b32encode(digest[:_LABEL_BYTES]).decode("ascii").lower())


def is_label(text: str) -> bool:
    """Whether `text` has the form of a label, bound or not."""
    return _PATTERN.fullmatch(text) is not None


def short_label(label: str) -> str:
    """A label as logs show it: the whole label is the secret in the URL."""
    return f"{label[:4]}…"


def verify_proof(label: str, epoch: int, proof: bytes) -> bool:
    """Whether `proof` proves that the owner of `label` uses epoch `epoch` (1 to 4096)."""
    if not 1 <= epoch <= CHAIN_LENGTH or len(proof) != PROOF_SIZE:
        return False
    return label_of(_hash_times(proof, epoch)) == label


class Chain:
    """The owner's side: a seed, its label, and the proof of any epoch."""

    __slots__ = ("_checkpoints", "label")

    def __init__(self, seed: bytes | None = None) -> None:
        """Compute the whole chain from `seed` (32 bytes; random by default), which takes about 4 ms. Raises ValueError
        for a seed of another length."""
        value = secrets.token_bytes(SEED_SIZE) if seed is None else seed
        if len(value) != SEED_SIZE:
            raise ValueError(f"a seed has {SEED_SIZE} bytes, not {len(value)}")
        self._checkpoints = []
        for _ in range(CHAIN_LENGTH // _STRIDE):
            self._checkpoints.append(value)
            value = _hash_times(value, _STRIDE)
        self.label = label_of(value)

    def proof(self, epoch: int) -> bytes:
        """x(4096 - epoch). Raises ValueError outside 1 to 4096; above that the chain is used up, and a new label is
        needed."""
        if not 1 <= epoch <= CHAIN_LENGTH:
            raise ValueError(f"epoch {epoch} is outside 1 to {CHAIN_LENGTH}")
        index = CHAIN_LENGTH - epoch
        return _hash_times(self._checkpoints[index // _STRIDE], index % _STRIDE)
