"""A fuzz target: a parser, its invariant and its seed inputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final
from zlib import crc32

# Inputs up to this size are also tried byte by byte, with a call for each.
_SHORT: Final = 400


@dataclass(frozen=True, slots=True)
class Target:
    """A parser of bytes from outside. `check` raises for an input that breaks the invariant; it depends on that input
    only, so that every failure can be repeated."""

    name: str
    invariant: str
    seeds: Callable[[], tuple[bytes, ...]]
    check: Callable[[bytes], None]


def chance_of(data: bytes) -> Random:
    """A generator that is seeded with the input."""
    return Random(crc32(data))


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Ways to cut the data into pieces: byte by byte or in small steps, and twice at a few random places."""
    step = 1 if len(data) <= _SHORT else 1 + len(data) // _SHORT
    yield [data[at : at + step] for at in range(0, len(data), step)]
    chance = chance_of(data)
    for _ in range(2):
        places = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(1, 6)))
        yield [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
