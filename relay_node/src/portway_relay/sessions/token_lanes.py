"""How many data lanes each token has on this node, and whether it may have another one.

Pools know their lanes and report no change; they are asked only when a token may have reached its limit, and at most
once a second for each token.
"""

import math
from collections.abc import Callable
from typing import Final

from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic

_RECOUNT: Final = 1.0  # seconds
_TOKENS: Final = 10_000  # remembered: twice the sessions that a node takes by default


class TokenLanes:
    """Lanes by token."""

    def __init__(self, most: int, clock: Monotonic, count: Callable[[str], int]) -> None:
        """most: lanes of one token. count: the lanes that the pools of a token have now."""
        self._most = most
        self._clock = clock
        self._count = count
        self._known: BoundedMap[str, tuple[int, float]] = BoundedMap(_TOKENS)  # with each new one added; counted when

    def take(self, token_id: str) -> bool:
        """Count one more lane; False when the token has as many as it may have."""
        lanes, counted_at = self._known.get(token_id, (self._most, -math.inf))
        if lanes >= self._most and self._clock() - counted_at >= _RECOUNT:
            lanes, counted_at = self._count(token_id), self._clock()
        taken = lanes < self._most
        self._known[token_id] = (lanes + taken, counted_at)
        return taken
