"""How long to wait between tries. Whether a try makes sense at all is decided where it is made.

What a node asks for is honoured within bounds: it may be broken, or hostile.
"""

import random
from collections.abc import Iterator
from typing import Final

# All clients of a node lose it in the same moment: a tenth of a second spreads thousands of them, and nobody misses it.
# After that a node that has gone must not be met by all of them at once, and one that comes back must be noticed soon.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
# A node takes hundreds of clients a second: all that can have been at another one are through by then.
LONGEST_HINT: Final = 30.0
# A node that stops gives its clients twice this by default, before it cuts them.
LONGEST_STAY: Final = 5.0


def pauses() -> Iterator[float]:
    """Seconds to wait before each try, without end: below 0.1, then about 0.1 doubling to about 5."""
    yield random.uniform(0.0, FIRST_PAUSE)  # noqa: S311 - spreads tries only
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries only
        pause = min(pause * 2, LONGEST_PAUSE)


def hinted(milliseconds: int) -> float:
    """Seconds that a node asks to be left alone for, as far as that is honoured."""
    return min(milliseconds / 1000, LONGEST_HINT)


def spread(seconds: float) -> float:
    """Up to half as much again: others may have been told the same."""
    return seconds * random.uniform(1.0, 1.5)  # noqa: S311 - spreads tries only
