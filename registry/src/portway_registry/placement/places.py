"""What follows from where nodes are, and from where a client is, whatever is asked for.

Here: the values, and the order of places for a position. Not here: who is looked at, and why (order.py).
"""

from array import array
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from portway_geo.ordering import FarApart
from portway_geo.position import Position, Vector

from portway_registry.placement.group import Group
from portway_registry.placement.placed_nodes import PlacedNode

# Clients' positions whose order of places is kept: at 1,000 places 4 to 12 KB each, 24 MB in all at the most.
MOST_RANKINGS: Final = 2_048


@dataclass(slots=True)
class KnownPlace:
    """Where nodes are; several of a region may share one."""

    region: str
    vector: Vector | None
    nodes: Group = field(default_factory=Group)


@dataclass(slots=True)
class Ranking:
    """The indices of the located places, nearest to one client first, and the distances of those asked for."""

    order: "array[int]" = field(default_factory=lambda: array("I"))
    km: "array[float]" = field(default_factory=lambda: array("d"))


@dataclass(slots=True)
class Sight:
    """The nodes as one client sees them.

    `places` and `nodes` are what clients near it have measured, with the round trip to expect in milliseconds and the
    distance in km, 0 where none is known; `apart` names the nodes that are not like their place. `access` is what the
    client's own line adds to an estimate.
    """

    origin: Vector
    ranking: Ranking
    places: Sequence[tuple[KnownPlace, float, float]] = ()
    nodes: Sequence[tuple[PlacedNode, float, float]] = ()
    apart: Collection[str] = ()
    access: float = 0.0


@dataclass(slots=True)
class Geometry:
    """What follows from the places alone; made anew when one appears or vanishes."""

    located: list[KnownPlace]
    vectors: list[Vector]  # of the located
    unlocated: list[KnownPlace]
    spread: FarApart
    elsewhere: list[str]  # regions none of whose nodes has a position
    rankings: OrderedDict[Position, Ranking] = field(default_factory=OrderedDict)

    def ranking(self, client: Position, origin: Vector) -> Ranking:
        """The order of the located places for a client; kept for the positions asked for last."""
        ranking = self.rankings.get(client)
        if ranking is not None:
            self.rankings.move_to_end(client)
            return ranking
        x, y, z = origin
        # The inner product of unit vectors falls as their distance grows.
        near = [x * a + y * b + z * c for a, b, c in self.vectors]
        ranking = Ranking(array("I", sorted(range(len(near)), key=near.__getitem__, reverse=True)))
        self.rankings[client] = ranking
        if len(self.rankings) > MOST_RANKINGS:
            self.rankings.popitem(last=False)
        return ranking
