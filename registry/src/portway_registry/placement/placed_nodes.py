"""A node as placement sees it: where it is, whether it takes clients, how loaded it is; and groups of such nodes.

Here: what load costs, and the order by load alone. Not here: distance (portway_geo), the order of groups (order.py).
"""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from portway_geo.position import Position
from portway_proto.v1.types_pb2 import NodeInfo

from portway_registry.state.records import is_ready

# A full node ranks behind an idle one by 30 ms of round trip, some 1,400 km of path. The penalty grows by the square,
# so that a node half full costs 7.5 ms: distance decides until a node is nearly full.
FULL_PENALTY_MS: Final = 30.0
# A node with this many visits counts as full. 10,000 idle visits of 50 KB are 500 MB.
FULL_VISITS: Final = 10_000

# A region, and a position within it if it is known. Only load tells the nodes of one place apart.
Place = tuple[str, Position | None]


@dataclass(frozen=True, slots=True)
class PlacedNode:
    """`max_sessions` 0 means no limit; `position` is None when it is unknown."""

    name: str
    region: str
    position: Position | None
    ready: bool = True
    sessions: int = 0
    max_sessions: int = 0
    visits: int = 0

    @property
    def place(self) -> Place:
        """The place that it shares with the nodes of its region at its position."""
        return (self.region, self.position)

    @property
    def takes_clients(self) -> bool:
        """Reached, and neither cordoned nor draining nor full."""
        return self.ready and (self.max_sessions == 0 or self.sessions < self.max_sessions)

    @property
    def load(self) -> float:
        """From 0, idle, to 1, full: the greater of its shares of `max_sessions` and of FULL_VISITS."""
        by_sessions = self.sessions / self.max_sessions if self.max_sessions else 0.0
        return min(1.0, max(by_sessions, self.visits / FULL_VISITS))

    @property
    def penalty_ms(self) -> int:
        """What its load adds to the round trip, in whole milliseconds: a smaller difference is not worth acting on."""
        return round(FULL_PENALTY_MS * self.load**2)


def placed_node(info: NodeInfo) -> PlacedNode:
    """A node by its record; a position at 0, 0 or outside the range of degrees counts as unknown."""
    known = (info.latitude, info.longitude) != (0, 0)
    sound = -90 <= info.latitude <= 90 and -180 <= info.longitude <= 180
    return PlacedNode(
        name=info.name,
        region=info.region,
        position=Position(info.latitude, info.longitude) if known and sound else None,
        ready=is_ready(info),
        sessions=info.sessions,
        max_sessions=info.max_sessions,
        visits=info.visits,
    )


class Group:
    """Nodes by name that only load tells apart: those of one place, or of one region.

    They are kept in tiers of equal penalty. The tiers are made again only when a node changes its tier, so a report
    that leaves a node's penalty as it was costs nothing.
    """

    def __init__(self) -> None:
        self.members: dict[str, PlacedNode] = {}  # by name; read only outside this class
        self._tiers: list[tuple[int, list[str]]] | None = None

    def __len__(self) -> int:
        return len(self.members)

    def put(self, node: PlacedNode) -> None:
        """Add a node, or replace the one of its name."""
        before = self.members.get(node.name)
        self.members[node.name] = node
        if before is None or _tier(before) != _tier(node):
            self._tiers = None

    def remove(self, name: str) -> None:
        """Remove a node, if it is there."""
        if self.members.pop(name, None) is not None:
            self._tiers = None

    @property
    def tiers(self) -> Sequence[tuple[int, Sequence[str]]]:
        """Penalties in milliseconds in ascending order, each with the names of the nodes that have it.

        Nodes that take no clients are left out.
        """
        if self._tiers is None:
            tiers: dict[int, list[str]] = {}
            for node in self.members.values():
                tier = _tier(node)
                if tier is not None:
                    tiers.setdefault(tier, []).append(node.name)
            self._tiers = sorted(tiers.items())
        return self._tiers

    def least_loaded(self, limit: int, rng: random.Random, excluded: Collection[str]) -> list[tuple[int, PlacedNode]]:
        """The first `limit` (at least 1) nodes of `by_load` whose names are not in `excluded`."""
        found: list[tuple[int, PlacedNode]] = []
        for penalty, names in self.tiers:
            for name in names if len(names) == 1 else shuffled(names, rng):
                if name not in excluded:
                    found.append((penalty, self.members[name]))
                    if len(found) == limit:
                        return found
        return found

    def by_load(self, rng: random.Random) -> Iterator[tuple[int, PlacedNode]]:
        """The nodes that take clients, each after its penalty: least penalty first, equals in random order; lazily."""
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
    """The names in random order, by Fisher and Yates' shuffle: lazily and without a copy, for few are taken of many."""
    moved: dict[int, str] = {}
    chance, count = rng.random, len(names)
    for i in range(count):
        j = i + int(chance() * (count - i))
        yield moved.get(j) or names[j]
        moved[j] = moved.get(i) or names[i]
