"""Ports that must be named before they are used, when 0 is no answer."""

import random

# Below what Linux gives to outgoing connections by itself (32768), above what services are known by.
_RANGE = range(20_000, 30_000)
_SIZE = 50


def raw_port_range(size: int = _SIZE) -> tuple[int, int]:
    """First and last of a block that hardly anybody else has: tests run side by side, and a node skips taken ones."""
    first = random.randrange(_RANGE.start, _RANGE.stop - size)
    return first, first + size - 1
