"""Regions far apart first: for a client that cannot be located, one of a few of them is near.

The greedy choice: from any region on, next the one whose nearest region chosen so far is the farthest away.
"""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence

from portway_geo.position import Vector


class Spread:
    """Fixed places; walks over them are kept, and made no longer than somebody asked for."""

    def __init__(self, places: Mapping[str, Vector]) -> None:
        self.names: Sequence[str] = tuple(places)
        self._vectors = tuple(places.values())
        self._walks: dict[int, _Walk] = {}

    def starting_at(self, start: int) -> Iterator[str]:
        """All names, `names[start]` first, each next the farthest from all before it."""
        walk = self._walks.get(start)
        if walk is None:
            walk = self._walks[start] = _Walk(self._vectors, start)
        for i in range(len(self.names)):
            yield self.names[walk.pick(i)]


class _Walk:
    """The choices from one start, as far as they were asked for."""

    def __init__(self, vectors: Sequence[Vector], start: int) -> None:
        self._vectors = vectors
        self._picks = [start]
        self._nearest = array("d", [math.inf]) * len(vectors)  # chord to the nearest pick; chosen ones -1

    def pick(self, i: int) -> int:
        """The i-th choice, i below the number of places."""
        while len(self._picks) <= i:
            last = self._vectors[self._picks[-1]]
            self._nearest[self._picks[-1]] = -1.0
            distance = math.dist
            self._nearest = array(
                "d", [min(n, distance(last, v)) for n, v in zip(self._nearest, self._vectors, strict=True)]
            )
            self._picks.append(max(range(len(self._nearest)), key=self._nearest.__getitem__))
        return self._picks[i]
