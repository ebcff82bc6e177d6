"""Edits that turn well-formed bytes into bytes that are nearly well-formed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

# Lengths and counts at which parsers fail, in one to three bytes.
_TELLING: Final = tuple(
    number.to_bytes(size)
    for size in (1, 2, 3)
    for number in (0, 1, 2, 4, 0x7F, 0x80, 0xFE, 0xFF, 0x100, 0x3FFF, 0x4000, 0x4001, 0x7FFF, 0x8000, 0xFFFF)
    if number < 256**size
)
_MOST_EDITS: Final = 6
_LARGEST: Final = 96 * 1024  # bytes, above the limit of every parser


class EditKind(Enum):
    OVERWRITE = "overwrite"
    INSERT = "insert"
    DELETE = "delete"
    REPEAT = "repeat"
    TRUNCATE = "truncate"


@dataclass(frozen=True, slots=True)
class Edit:
    """One change at `at`, modulo the length of the data: of `size` bytes, or with `value`."""

    kind: EditKind
    at: int
    size: int = 1
    value: bytes = b"\x00"


def apply(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The data after each edit in turn."""
    for edit in edits:
        at = edit.at % (len(data) + 1)
        end = at + edit.size
        match edit.kind:
            case EditKind.OVERWRITE:
                data = data[:at] + edit.value + data[at + len(edit.value) :]
            case EditKind.INSERT:
                data = data[:at] + edit.value + data[at:]
            case EditKind.DELETE:
                data = data[:at] + data[end:]
            case EditKind.REPEAT:
                data = data[:end] + data[at:]
            case EditKind.TRUNCATE:
                data = data[:at]
    return data[:_LARGEST]


def random_input(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One seed input, or two in sequence, changed in a few places."""
    data = chance.choice(seeds)
    if chance.random() < 0.2:
        other = chance.choice(seeds)
        data = data[: chance.randint(0, len(data))] + other[chance.randint(0, len(other)) :]
    return apply(data, [_random_edit(chance) for _ in range(chance.randint(0, _MOST_EDITS))])


def _random_edit(chance: random.Random) -> Edit:
    kind = chance.choices(list(EditKind), weights=(8, 3, 3, 2, 1))[0]
    # Most edits are near the front, where headers and lengths are.
    at = chance.randrange(64) if chance.random() < 0.5 else chance.randrange(1 << 16)
    value = chance.choice(_TELLING) if chance.random() < 0.6 else chance.randbytes(chance.randint(1, 4))
    return Edit(kind, at, chance.choice((1, 2, 3, 4, 16, 64, 512)), value)
