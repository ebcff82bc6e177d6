"""Exponential back-off with jitter: pauses between tries, spread so that peers that failed together retry apart."""

import random
from collections.abc import Iterator


class Backoff:
    """Pauses that double from `first` to `longest` seconds, each multiplied by a random factor from 0.5 to 1."""

    __slots__ = ("_first", "_longest", "_next")

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next(self) -> float:
        """Seconds to wait before the next try."""
        pause, self._next = self._next, min(self._next * 2, self._longest)
        return jittered(pause)

    def reset(self) -> None:
        """A try succeeded: begin with `first` again."""
        self._next = self._first

    def __iter__(self) -> Iterator[float]:
        """The pauses, without end."""
        while True:
            yield self.next()


def jittered(seconds: float, low: float = 0.5, high: float = 1.0) -> float:
    """`seconds` multiplied by a random factor from `low` to `high`."""
    return seconds * random.uniform(low, high)  # noqa: S311 - spreads load, guards nothing
