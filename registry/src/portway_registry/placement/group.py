"""Nodes that nothing but load tells apart: those of one place, or of one region.

Kept in tiers of equal penalty, made anew only when a node changes its tier: a report of a node that leaves its
penalty as it was costs nothing.
"""

import random
from collections.abc import Collection, Iterator, Sequence

from portway_registry.placement.placed_nodes import PlacedNode


class Group:
    """A set of nodes by name."""

    def __init__(self) -> None:
        self.members: dict[str, PlacedNode] = {}  # by name; to be read only
        self._tiers: list[tuple[int, list[str]]] | None = None

    def __len__(self) -> int:
        return len(self.members)

    def put(self, node: PlacedNode) -> None:
        """Add a node, or replace what is known of it."""
        before = self.members.get(node.name)
        self.members[node.name] = node
        if before is None or _tier(before) != _tier(node):
            self._tiers = None

    def remove(self, name: str) -> None:
        """Forget a node, known or not."""
        if self.members.pop(name, None) is not None:
            self._tiers = None

    @property
    def tiers(self) -> Sequence[tuple[int, Sequence[str]]]:
        """The names of those that take clients by their penalty in milliseconds, the least first."""
        if self._tiers is None:
            tiers: dict[int, list[str]] = {}
            for node in self.members.values():
                tier = _tier(node)
                if tier is not None:
                    tiers.setdefault(tier, []).append(node.name)
            self._tiers = sorted(tiers.items())
        return self._tiers

    def least(self, most: int, rng: random.Random, apart: Collection[str]) -> list[tuple[int, PlacedNode]]:
        """As the first `most`, one at the least, of `by_load` without those that are named in `apart`."""
        found: list[tuple[int, PlacedNode]] = []
        for penalty, names in self.tiers:
            for name in names if len(names) == 1 else shuffled(names, rng):
                if name not in apart:
                    found.append((penalty, self.members[name]))
                    if len(found) == most:
                        return found
        return found

    def by_load(self, rng: random.Random) -> Iterator[tuple[int, PlacedNode]]:
        """Those that take clients with their penalty, the least first, equals in random order; lazily."""
        for penalty, names in self.tiers:
            if len(names) == 1:
                yield penalty, self.members[names[0]]
                continue
            for name in shuffled(names, rng):
                yield penalty, self.members[name]


def _tier(node: PlacedNode) -> int | None:
    """Nodes of one tier are interchangeable; None for one that takes no clients."""
    return node.penalty_ms if node.takes_clients else None


def shuffled(names: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Fisher and Yates' shuffle, a step at a time and without a copy: few of many are asked for."""
    moved: dict[int, str] = {}
    chance, count = rng.random, len(names)
    for i in range(count):
        j = i + int(chance() * (count - i))
        yield moved.get(j) or names[j]
        moved[j] = moved.get(i) or names[i]
