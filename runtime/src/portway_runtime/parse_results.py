"""What a parser of a connection's first bytes answers when they are not, or not yet, what it reads.

The parsers are pure functions over bytes and never raise. Not here: what each of them answers when it has read
everything, and waiting for more bytes (first_bytes.py).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NeedMore:
    """Incomplete: at least `size` bytes from the beginning are needed, more than there were."""

    size: int


@dataclass(frozen=True, slots=True)
class Invalid:
    """Something else, whatever follows. `reason`: a few words for the log."""

    reason: str
