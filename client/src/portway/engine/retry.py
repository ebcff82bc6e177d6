"""How long to wait between tries. Whether a try makes sense at all is decided where it is made."""

import random
from collections.abc import Iterator
from typing import Final

# The first try is immediate. After that a node that has gone must not be met by all its clients at once, and one
# that comes back must be noticed soon.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


def pauses() -> Iterator[float]:
    """Seconds to wait before each try, without end: 0, then about 0.1 doubling to about 5."""
    yield 0.0
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries only
        pause = min(pause * 2, LONGEST_PAUSE)
