"""What a fuzz target is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final
from zlib import crc32

# Up to here an input is also tried byte by byte; it costs a call for each.
_SHORT: Final = 400


@dataclass(frozen=True, slots=True)
class Target:
    """Something that reads bytes from outside. `check` raises for an input that breaks the invariant; it depends on
    nothing but that input, so that any failure can be had again."""

    name: str
    invariant: str
    seeds: Callable[[], tuple[bytes, ...]]
    check: Callable[[bytes], None]


def chance_of(data: bytes) -> Random:
    """Chance that is the same for the same input."""
    return Random(crc32(data))


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """The data in pieces: byte by byte or in small steps, and twice cut at a few random places."""
    step = 1 if len(data) <= _SHORT else 1 + len(data) // _SHORT
    yield [data[at : at + step] for at in range(0, len(data), step)]
    chance = chance_of(data)
    for _ in range(2):
        places = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(1, 6)))
        yield [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
