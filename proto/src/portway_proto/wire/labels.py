"""Labels: the names of tunnels, each derived from a tunnel's public key (WIRE.md §8.1)."""

import base64
import hashlib
import re
from typing import Final, NewType

Label = NewType("Label", str)

LABEL_LENGTH: Final = 16

_PREFIX: Final = b"portway-label-2"
_LABEL_BYTES: Final = 10  # 80 bits: 16 characters of base32 without padding
_PATTERN: Final = re.compile(r"[a-z2-7]{16}")


def label_of_key(public_key: bytes) -> Label:
    """The label of a tunnel's public key (Ed25519, 32 bytes)."""
    digest = hashlib.sha256(_PREFIX + public_key).digest()
    return Label(base64.b32encode(digest[:_LABEL_BYTES]).decode("ascii").lower())


def is_label(text: str) -> bool:
    """Whether `text` has the form of a label, bound or not."""
    return _PATTERN.fullmatch(text) is not None


def short_label(label: str) -> str:
    """A label as logs show it: the whole label is the secret in the URL."""
    return f"{label[:4]}…"
